"""One short input by itself: what a caller waits for, beside one forward pass replayed as a CUDA graph.

The graph is the least that the model's kernels take one after the other: no host, no checks, no other length.
"""

from collections.abc import Callable
from statistics import quantiles
from unittest.mock import patch

import torch
from transformers import PreTrainedModel, masking_utils

from benchmarks.gpu import device as limits
from benchmarks.gpu import lengths, models
from reward_model.rendering import Rendered

TOKENS = (16, 64, 300)


def measure(shape: str, device: torch.device, dtype: torch.dtype, *, times: int) -> list[dict[str, object]]:
    """Prints a table and returns its figures, in milliseconds."""
    ours, theirs = models.engine(shape, device, dtype), models.plain(shape, device, dtype)
    print(f"\n{shape}, one input\n\n| tokens | candidate | p50, ms | p99, ms | of the graph |\n|---|---|---|---|---|")
    rows: list[dict[str, object]] = []
    for tokens in TOKENS:
        (ids,) = lengths.sequences([tokens], vocabulary=models.SHAPES[shape]["vocab_size"])
        row = torch.tensor([ids], device=device)
        runs: dict[str, Callable[[], object]] = {
            "engine": lambda ids=ids: ours.score([Rendered(None, ids)]),  # type: ignore[misc]
            "transformers": lambda row=row: forward(theirs, row).tolist(),  # type: ignore[misc]
        }
        if device.type == "cuda":
            try:
                runs = {"graph": graphed(theirs, row)} | runs
            except RuntimeError as error:
                print(f"no graph: {next(iter(str(error).splitlines()), '')}")
        found = {name: _percentiles(run, device, times) for name, run in runs.items()}
        for name, (p50, p99) in found.items():
            share = p50 / found.get("graph", (p50, p99))[0]
            print(f"| {tokens} | {name} | {1e3 * p50:.2f} | {1e3 * p99:.2f} | {share:.2f} |", flush=True)
            rows.append({"tokens": tokens, "candidate": name, "p50": 1e3 * p50, "p99": 1e3 * p99, "of_graph": share})
    return rows


@torch.inference_mode()
def forward(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """[1, labels] on the device."""
    # Causality without a mask: by default one is made where a graph is captured, and wherever positions might restart.
    mask = {"full_attention": None} if model.config.model_type == "qwen3" else None
    logits: torch.Tensor = model(input_ids=ids, attention_mask=mask).logits
    return logits


def graphed(model: PreTrainedModel, ids: torch.Tensor) -> Callable[[], object]:
    """A replay of one forward pass over a row like `ids`, its input brought in and its score read."""
    static = ids.clone()
    with torch.inference_mode():
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                forward(model, static)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with patch.object(masking_utils, "is_tracing", lambda *_: False, create=True), torch.cuda.graph(graph):
            logits = forward(model, static)
    host = ids.cpu().pin_memory()

    def replay() -> object:
        static.copy_(host, non_blocking=True)
        graph.replay()
        return logits.tolist()

    return replay


def _percentiles(run: Callable[[], object], device: torch.device, times: int) -> tuple[float, float]:
    """Seconds: p50 and p99 of `times` runs, after a tenth of them that do not count."""
    for _ in range(max(3, times // 10)):
        run()
    cuts = quantiles([limits.seconds(run, device) for _ in range(times)], n=100, method="inclusive")
    return cuts[49], cuts[98]
