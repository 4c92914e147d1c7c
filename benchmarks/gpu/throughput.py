"""Sequences a second of large batches: this project beside transformers, beside what the matrix products alone reach.

The shares say how far it is to the limit, the kernels where the rest goes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel

from benchmarks import shapes
from benchmarks.engine import batches
from benchmarks.gpu import device as limits
from benchmarks.gpu import models
from benchmarks.timing import Sample
from reward_model.model import RewardModel
from reward_model.rendering import Rendered

BUDGETS = (8192, 16_384, 32_768)
#: Sequences that transformers computes at once; the best of these counts.
SIZES = (32, 128)
#: Parts of kernels' names, in the order in which they are looked for.
_KINDS = {
    "attention": ("flash", "fmha", "attention", "softmax"),
    "matrix products": ("gemm", "nvjet", "cutlass", "cublas", "xmma", "mm_"),
    "copies": ("memcpy", "memset", "copy", "cat", "index", "gather"),
}
#: Batches that are launched and not waited for, as the service has them.
_IN_FLIGHT = 2


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured.

    Attributes:
        shape: of `models.SHAPES`.
        name: of the lengths.
        sequences: token ids.
        rounds: how often.
    """

    shape: str
    name: str
    sequences: list[list[int]]
    rounds: int


def measure(case: Case, device: torch.device, dtype: torch.dtype, peak: float) -> dict[str, object]:
    """Prints a table and returns its figures.

    Args:
        case: what.
        device: where.
        dtype: of both.
        peak: operations a second of the device's best matrix product.
    """
    ours, theirs = models.engine(case.shape, device, dtype), models.plain(case.shape, device, dtype)
    runs: dict[str, Callable[[], object]] = {
        f"engine {budget}": partial(run_launched, ours, case.sequences, budget) for budget in BUDGETS
    }
    lengths = [len(ids) for ids in case.sequences]
    for size in dict.fromkeys(min(size, len(lengths)) for size in SIZES):
        runs[f"transformers padded {size}"] = partial(run_padded, theirs, case.sequences, size)
        if len(set(lengths)) > 1:
            runs[f"transformers sorted {size}"] = partial(run_padded, theirs, sorted(case.sequences, key=len), size)
    sample = limits.in_turns(runs, case.rounds, device)
    causal = ours.backbone.shares_prefixes
    useful = shapes.flops(theirs, lengths, causal=causal)
    computed = shapes.flops_read_only(theirs, lengths, causal=causal)
    linear = limits.linear_rate(shapes.linears(theirs), max(BUDGETS), device, dtype)
    best = min((name for name in runs if name.startswith("engine")), key=lambda name: sample[name].median)
    print(f"\n{case.shape}, {case.name}, {len(lengths)} sequences, {sum(lengths) / len(lengths):.0f} tokens on average")
    print(
        f"its matrix products: {linear / 1e12:.0f} TFLOP/s, {linear / peak:.0%} of the peak; {ours.backbone.reason}\n"
    )
    print(
        "| candidate | sequences/s (low to high) | TFLOP/s | of the peak | of its matrix products | engine faster by |"
    )
    print("|---|---|---|---|---|---|")
    table = {}
    for name, one in sample.items():
        rate, ratio = useful / one.median, _ratio(one, sample[best])
        print(
            f"| {name} | {len(lengths) / one.median:.1f}"
            f" ({len(lengths) / one.high:.1f} to {len(lengths) / one.low:.1f}) |"
            f" {rate / 1e12:.1f} | {rate / peak:.1%} | {rate / linear:.1%} |"
            f" {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}) |",
            flush=True,
        )
        table[name] = {"rate": len(lengths) / one.median, "of_peak": rate / peak, "of_linear": rate / linear}
    share = computed / useful
    print(f"\n{best} computes {share:.0%} of these operations, since the last layer is computed only where it is read")
    kernels = kernel_seconds(runs[best], device)
    if kernels:
        whole = sample[best].median
        parts = ", ".join(f"{kind} {took / whole:.0%}" for kind, took in kernels.items())
        print(f"of the time of {best}: {parts}, nothing {1 - sum(kernels.values()) / whole:.0%}")
    return {"shape": case.shape, "case": case.name, "linear": linear, "candidates": table, "computed": share,
            "kernels": kernels}  # fmt: skip


def run_launched(model: RewardModel, sequences: Sequence[list[int]], budget: int) -> list[float]:
    """All scores, in batches of up to `budget` tokens as they come, each launched before the one before it is read."""
    pending = []
    scores: list[float] = []
    for batch in batches(sequences, budget):
        pending.append(model.launch([Rendered(None, ids) for ids in batch]))
        if len(pending) == _IN_FLIGHT:
            scores += [score.value for score in pending.pop(0).result()]
    return scores + [score.value for one in pending for score in one.result()]


@torch.inference_mode()
def run_padded(model: PreTrainedModel, sequences: Sequence[list[int]], size: int) -> list[float]:
    """All scores by transformers, `size` at a time, padded to the longest."""
    logits = []
    for start in range(0, len(sequences), size):
        ids = [torch.tensor(one) for one in sequences[start : start + size]]
        inputs = pad_sequence(ids, batch_first=True).to(model.device, non_blocking=True)
        logits.append(model(input_ids=inputs, attention_mask=(inputs != 0).long()).logits[:, 0])
    scores: list[float] = torch.cat(logits).tolist()
    return scores


def kernel_seconds(run: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Seconds of the device by kind of kernel in one run; nothing where it is no GPU."""
    if device.type != "cuda":
        return {}
    with profile(activities=[ProfilerActivity.CUDA]) as watched:
        run()
        limits.wait(device)
    found = dict.fromkeys([*_KINDS, "everything else"], 0.0)
    for event in watched.key_averages():
        if event.device_type.name == "CUDA":
            found[_kind(event.key.lower())] += event.self_device_time_total / 1e6
    return found


def _kind(name: str) -> str:
    return next((kind for kind, parts in _KINDS.items() if any(part in name for part in parts)), "everything else")


def _ratio(slow: Sample, fast: Sample) -> Sample:
    return Sample(tuple(a / b for a, b in zip(slow.values, fast.values, strict=True)))
