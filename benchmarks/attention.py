"""Which way to compute attention is fastest on this CPU: what `reward_model.attention` chooses by.

    python -m benchmarks.attention [--dtype bfloat16] [--causal] [--rounds 7]

One packed row of equally long sequences, about 2,048 tokens (one sequence where that is longer); microseconds for each
sequence, and ratios.
"""

import argparse
from functools import partial

import torch

from benchmarks import machine
from benchmarks.timing import alternate, seconds
from reward_model.kernels import Rule, States, by_matmul, by_sdpa
from reward_model.packing import pack
from reward_model.spans import Layout

#: Heads, key heads and head size of MiniLM, DistilBERT and BERT, Qwen3.
SHAPES = ((12, 12, 32), (12, 12, 64), (16, 8, 128))
LENGTHS = (8, 32, 64, 128, 256, 512, 1024, 2048, 4096)
TOKENS = 2048


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--causal", action="store_true")
    parser.add_argument("--window", type=int)
    parser.add_argument("--rounds", type=int, default=7)
    flags = parser.parse_args()
    for name, value in (machine.describe() | {"threads": str(torch.get_num_threads())}).items():
        print(f"{name}: {value}")
    print("\n| heads x size | tokens | by_matmul, us a sequence | by_sdpa, us | by_sdpa / by_matmul (low to high) |")
    print("|---|---|---|---|---|")
    for heads, key_heads, size in SHAPES:
        for length in LENGTHS:
            print(row(heads, key_heads, size, length, flags))


@torch.inference_mode()
def row(heads: int, key_heads: int, size: int, length: int, flags: argparse.Namespace) -> str:
    """One line of the table."""
    count = max(1, TOKENS // length)
    layout = Layout.of(pack([[1] * length] * count))
    rule = Rule(size**-0.5, causal=flags.causal, window=flags.window)
    # As a model's projections leave them: one token's heads side by side.
    query, key, value = (
        torch.randn(count * length, n, size, dtype=getattr(torch, flags.dtype)).transpose(0, 1)
        for n in (heads, key_heads, key_heads)
    )
    ways = {
        "matmul": lambda: torch.cat(
            [by_matmul(query, States(key, value), layout, span, rule) for span in layout.spans]
        ),
        "sdpa": lambda: torch.cat(
            [by_sdpa(query, States(key, value), layout, span, rule, n) for span, n in layout.groups()]
        ),
    }
    timed = alternate({name: partial(seconds, way) for name, way in ways.items()}, flags.rounds)
    ratios = [a / b for a, b in zip(timed["sdpa"].values, timed["matmul"].values, strict=True)]
    each = {name: 1e6 * sample.median / count for name, sample in timed.items()}
    return (
        f"| {heads}/{key_heads} x {size} | {length} | {each['matmul']:.0f} | {each['sdpa']:.0f} |"
        f" {sorted(ratios)[len(ratios) // 2]:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
    )


if __name__ == "__main__":
    main()
