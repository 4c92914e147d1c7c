"""Which way to compute attention is fastest on this CPU: what `reward_model.attention` chooses by.

    python -m benchmarks.attention [--dtype float32] [--causal] [--rounds 7]

One packed row of equally long sequences, about 2,048 tokens (one sequence where that is longer); microseconds for each
sequence, and how many times as long as `by_native` the others take (as `by_sdpa` where there is no such kernel).
"""

import argparse
from functools import partial

import torch

from benchmarks import machine
from benchmarks.engine import ratio_of
from benchmarks.timing import alternate, seconds
from reward_model.kernels import Rule, States, by_matmul, by_sdpa
from reward_model.native import by_native, native_can
from reward_model.packing import pack
from reward_model.spans import Layout

#: Heads, key heads and head size of MiniLM, DistilBERT and BERT, Qwen3.
SHAPES = ((12, 12, 32), (12, 12, 64), (16, 8, 128))
LENGTHS = (8, 32, 64, 128, 256, 512, 1024, 2048, 4096)
TOKENS = 2048


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--causal", action="store_true")
    parser.add_argument("--window", type=int)
    parser.add_argument("--rounds", type=int, default=7)
    flags = parser.parse_args()
    for name, value in (machine.describe() | {"threads": str(torch.get_num_threads())}).items():
        print(f"{name}: {value}")
    print("\n| heads x size | tokens | by_native, us | by_sdpa, us | times (low to high) | by_matmul, us | times |")
    print("|---|---|---|---|---|---|---|")
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
    states = States(key, value)
    ways = {
        "by_native": lambda: by_native(query, states, layout, rule),
        "by_sdpa": lambda: torch.cat([by_sdpa(query, states, layout, one, rule, n) for one, n in layout.groups()]),
        "by_matmul": lambda: torch.cat(
            # What has been laid out for one layer is not there for the next.
            [by_matmul(query, States(key, value), layout, one, rule) for one in layout.spans]
        ),
    }
    known = native_can(query, states, rule)
    if not known:
        del ways["by_native"]
    timed = alternate({name: partial(seconds, way) for name, way in ways.items()}, flags.rounds)
    cells = [] if known else ["-"]
    for i, sample in enumerate(timed.values()):
        cells.append(f"{1e6 * sample.median / count:.0f}")
        if i or not known:
            ratio = ratio_of(sample, next(iter(timed.values())))
            cells.append(f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})")
    return f"| {heads}/{key_heads} x {size} | {length} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
