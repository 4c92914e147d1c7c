"""What sharing a prompt among its responses is worth: N responses to one prompt, with and without.

    python -m benchmarks.prefixes [--responses 1 2 4 8 16 32] [--prompts 128 512 2048] [--plot docs/prefixes.svg]

A decoder of Qwen3's shape with random weights; both ways pack all sequences into one batch, in turns, and must give the
same scores up to rounding. `limit` is the ratio of the tokens.
"""

import argparse
import json
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks import machine, shapes
from benchmarks.timing import Sample, alternate, seconds
from reward_model.model import RewardModel
from reward_model.packing import pack
from reward_model.precision import choose_precision


def main() -> None:
    """Prints one table and perhaps draws it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--prompts", type=int, nargs="+", default=[128, 512, 2048], help="tokens")
    parser.add_argument("--tokens", type=int, default=128, help="of a response")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output_file", type=Path, help="also write the figures there, as JSON")
    parser.add_argument("--plot", type=Path, help="also draw them there")
    flags = parser.parse_args()
    precision = choose_precision("cpu", flags.dtype)
    described = machine.describe() | {"threads": str(torch.get_num_threads()), "dtype": precision.dtype_name}
    print("\n".join(f"{name}: {value}" for name, value in described.items()))
    model = RewardModel(shapes.build("qwen3"), precision).freeze()
    exact = RewardModel(shapes.build("qwen3"), choose_precision("cpu", "float32")).freeze()
    print("\nErrors are the largest distance from unshared scores in fp32, in their standard deviations.\n")
    print(
        "| prompt | responses | unshared, s | shared, s | faster by (low to high) | limit | error unshared | shared |"
    )
    print("|---|---|---|---|---|---|---|---|")
    figures = [
        measure(model, exact, prompt, responses, flags) for prompt in flags.prompts for responses in flags.responses
    ]
    if flags.output_file:
        flags.output_file.write_text(json.dumps({"machine": described, "figures": figures}, indent=1), encoding="utf-8")
    if flags.plot:
        from benchmarks.plots import draw_prefixes  # noqa: PLC0415 - only who draws needs matplotlib

        draw_prefixes(figures, described, flags.plot)


def measure(
    model: RewardModel, exact: RewardModel, prompt: int, responses: int, flags: argparse.Namespace
) -> dict[str, float]:
    """One line of the table."""
    tokens: int = flags.tokens
    draw_ids = random.Random(prompt * 1000 + responses)
    shared = [draw_ids.randrange(1, 32_000) for _ in range(prompt)]
    sequences = [shared + [draw_ids.randrange(1, 32_000) for _ in range(tokens)] for _ in range(responses)]
    ways = {
        name: partial(run, model, sequences, share_prefixes=share)
        for name, share in (("unshared", False), ("shared", True))
    }
    right = torch.tensor(run(exact, sequences, share_prefixes=False))
    spread = right.std() if responses > 1 else right.abs().max()
    errors = {name: float((torch.tensor(way()) - right).abs().max() / spread) for name, way in ways.items()}
    timed = alternate({name: partial(seconds, way) for name, way in ways.items()}, flags.rounds)
    ratio = Sample(tuple(a / b for a, b in zip(timed["unshared"].values, timed["shared"].values, strict=True)))
    limit = responses * (prompt + tokens) / (prompt + responses * tokens)
    print(
        f"| {prompt} | {responses} | {timed['unshared'].median:.3f} | {timed['shared'].median:.3f} |"
        f" {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}) | {limit:.2f} |"
        f" {errors['unshared']:.1e} | {errors['shared']:.1e} |",
        flush=True,
    )
    return {"prompt": prompt, "responses": responses, "ratio": ratio.median, "low": ratio.low, "high": ratio.high,
            "limit": limit, "error": errors["unshared"], "error_shared": errors["shared"]}  # fmt: skip


@torch.inference_mode()
def run(model: RewardModel, sequences: Sequence[Sequence[int]], *, share_prefixes: bool) -> list[float]:
    """All scores, as one batch."""
    values: list[float] = model(pack(sequences, share_prefixes=share_prefixes))[:, 0].tolist()
    return values


if __name__ == "__main__":
    main()
