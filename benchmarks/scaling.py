"""What one forward pass costs by sequence length, batch and cores, beside transformers in the same dtype.

    python -m benchmarks.scaling [--model minilm distilbert] [--threads 1 2]

Equally long sequences of random tokens, so that transformers needs no padding: its best case. One short input at batch
1 is the first line of each table.
"""

import argparse
import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from benchmarks import machine, shapes
from benchmarks.engine import plain_model, ratio_of, run_padded
from benchmarks.timing import alternate, seconds
from reward_model.model import RewardModel
from reward_model.precision import choose_precision
from reward_model.rendering import Rendered

#: A forward pass is repeated for about so many tokens in one measurement.
TOKENS = 2048


def main() -> None:
    """Prints one table for each model and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=list(shapes.CONFIGS), default=["minilm", "distilbert"])
    parser.add_argument("--lengths", type=int, nargs="+", default=[8, 32, 128, 512], help="tokens of a sequence")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64], help="sequences")
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output_file", type=Path, help="also write the figures there, as JSON")
    flags = parser.parse_args()
    precision = choose_precision("cpu", flags.dtype)
    described = machine.describe() | {"dtype": precision.dtype_name}
    print("\n".join(f"{name}: {value}" for name, value in described.items()))
    figures = []
    for name in flags.model:
        engine = RewardModel(shapes.build(name), precision).freeze()
        plain = plain_model(name, precision.dtype)
        for threads in flags.threads:
            torch.set_num_threads(threads)
            print(f"\n{name}, {threads} threads\n")
            print("| batch x tokens | engine, ms | transformers, ms | engine faster by (low to high) |")
            print("|---|---|---|---|")
            for batch in flags.batches:
                for length in flags.lengths:
                    ways = _ways(engine, plain, batch, length)
                    figures.append(_row(name, threads, batch, length, ways, flags.rounds))
    if flags.output_file:
        flags.output_file.write_text(json.dumps({"machine": described, "figures": figures}, indent=1), encoding="utf-8")


def _ways(engine: RewardModel, plain: PreTrainedModel, batch: int, length: int) -> dict[str, Callable[[], object]]:
    ids = random.Random(length)
    vocabulary = engine.config.get_text_config().vocab_size
    sequences = [[ids.randrange(1000, vocabulary) for _ in range(length)] for _ in range(batch)]
    inputs = [Rendered(None, one) for one in sequences]
    return {"engine": partial(engine.score, inputs), "transformers": partial(run_padded, plain, sequences, batch)}


def _row(
    name: str, threads: int, batch: int, length: int, ways: dict[str, Callable[[], object]], rounds: int
) -> dict[str, object]:
    repeats = max(1, TOKENS // (batch * length))
    timed = alternate({way: partial(seconds, partial(_repeat, run, repeats)) for way, run in ways.items()}, rounds)
    ratio = ratio_of(timed["transformers"], timed["engine"])
    each = {way: 1000 * sample.median / repeats for way, sample in timed.items()}
    print(
        f"| {batch} x {length} | {each['engine']:.2f} | {each['transformers']:.2f} |"
        f" {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}) |",
        flush=True,
    )
    return {"model": name, "threads": threads, "batch": batch, "tokens": length, "ratio": ratio.median, **each}


def _repeat(run: Callable[[], object], times: int) -> None:
    for _ in range(times):
        run()


if __name__ == "__main__":
    main()
