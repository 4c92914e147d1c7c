"""How fast batches are scored, against transformers and against the matrix products that scoring consists of.

    python -m benchmarks.engine [--model minilm distilbert deberta] [--dataset_name pairs.jsonl.gz --source hh_]

All candidates score the same conversations in turns, in one process, with the same number of threads, in a new order in
each round:

- `engine`: this project's model, batches of a token budget in the order of arrival;
- `deterministic`: the same, scores bitwise the same in any batch;
- `sorted`: transformers, SDPA attention if the model has it, batches of similar length, padded; in the engine's dtype
  and in fp32;
- `padded`: the same in the order of arrival;
- `alone`: transformers, one unpadded conversation at a time.

The measure of all is `torch.nn.functional.linear` at the model's own shapes, at its best number of rows, in the same
dtype. `useful` counts the operations of real tokens, not of padding; `computed` leaves out what the engine spares.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from benchmarks import machine, shapes
from benchmarks.texts import HELD_OUT, token_ids
from benchmarks.timing import Sample, alternate, seconds
from reward_model.absorbed import is_worth_it
from reward_model.model import RewardModel
from reward_model.precision import choose_precision
from reward_model.rendering import Rendered

SIZES = ("minilm", "distilbert", "deberta")
ROWS = (512, 1024, 2048, 4096, 8192)


def main() -> None:
    """Measures every size named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=SIZES, default=SIZES[:2])
    parser.add_argument("--dataset_name", default=str(HELD_OUT), help="preference data")
    parser.add_argument("--source", default="", help="only rows whose source starts like this")
    parser.add_argument("--count", type=int, default=512, help="conversations")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--batch_tokens", type=int, nargs="+", default=[4096], help="of the engine's batches")
    parser.add_argument("--batch_size", type=int, default=32, help="of transformers' batches")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output_file", type=Path, help="also write the figures there, as JSON")
    flags = parser.parse_args()
    sequences = token_ids(flags.dataset_name, flags.count, source=flags.source)
    described = machine.describe() | {"threads": str(torch.get_num_threads())}
    print("\n".join(f"{name}: {value}" for name, value in described.items()))
    lengths = [len(ids) for ids in sequences]
    print(f"{len(lengths)} conversations, {sum(lengths) / len(lengths):.0f} tokens on average, at most {max(lengths)}")
    figures = {name: measure(name, sequences, flags) for name in flags.model}
    if flags.output_file:
        flags.output_file.write_text(json.dumps({"machine": described, "figures": figures}, indent=1), encoding="utf-8")


def measure(name: str, sequences: Sequence[list[int]], flags: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measures one size and prints a table."""
    precision = choose_precision("cpu", flags.dtype)
    engine = RewardModel(shapes.build(name), precision).freeze()
    dtypes = dict.fromkeys((precision.dtype, torch.float32))
    plains = {str(dtype).removeprefix("torch."): plain_model(name, dtype) for dtype in dtypes}
    plain = plains[precision.dtype_name]
    still = RewardModel(shapes.build(name), precision, deterministic=True).freeze()
    scorers: dict[str, Callable[[Sequence[list[int]]], object]] = {
        f"engine {budget}": partial(run_engine, engine, budget=budget) for budget in flags.batch_tokens
    }
    scorers["deterministic"] = partial(run_engine, still, budget=flags.batch_tokens[0])
    for dtype, model in plains.items():
        scorers[f"sorted {dtype}"] = partial(run_sorted, model, size=flags.batch_size)
        scorers[f"padded {dtype}"] = partial(run_padded, model, size=flags.batch_size)
        scorers[f"alone {dtype}"] = partial(run_padded, model, size=1)
    candidates = {name: in_new_order(score, sequences) for name, score in scorers.items()}
    products = linear_products(plain)
    timed = {name: partial(seconds, run) for name, run in (candidates | products).items()}
    sample = alternate(timed, flags.rounds)
    lengths = [len(ids) for ids in sequences]
    useful = shapes.flops(plain, lengths)
    computed = {
        f"engine {budget}": _computed(plain, engine, batches(sequences, budget)) for budget in flags.batch_tokens
    } | {"deterministic": _computed(plain, still, ([ids] for ids in sequences))}
    peaks = {
        name: (2 * rows * width * height / sample[name].low, name) for name, (rows, width, height) in _sizes(plain)
    }
    peak, best = max(peaks.values())
    print(f"\n{name}, {precision.dtype_name}: F.linear reaches {peak / 1e9:.0f} GFLOP/s ({best})\n")
    print("| candidate | sequences/s (low to high) | useful GFLOP/s | of F.linear | computed | engine faster by |")
    print("|---|---|---|---|---|---|")
    first = sample[f"engine {flags.batch_tokens[0]}"]
    table = {}
    for candidate in candidates:
        one = sample[candidate]
        share = useful / one.median / peak
        of_computed = computed.get(candidate, useful) / one.median / peak
        rate = f"{len(lengths) / one.median:.1f} ({len(lengths) / one.high:.1f} to {len(lengths) / one.low:.1f})"
        ratio = ratio_of(one, first)
        print(
            f"| {candidate} | {rate} | {useful / one.median / 1e9:.0f} | {share:.0%} | {of_computed:.0%} |"
            f" {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}) |"
        )
        table[candidate] = {
            "sequences_per_second": len(lengths) / one.median,
            "of_linear": share,
            "ratio": ratio.median,
        }
    return table


def _computed(plain: PreTrainedModel, model: RewardModel, batches: Iterable[Sequence[Sequence[int]]]) -> float:
    """Operations of a model that scores `batches`."""
    traced = model.backbone.traced
    total = 0.0
    for batch in batches:
        lengths = [len(ids) for ids in batch]
        absorbs = traced is not None and traced.absorbs and is_worth_it(sum(lengths), len(lengths))
        projections = 3 if traced is None else 0 if absorbs else 2
        total += shapes.flops_read_only(plain, lengths, projections=projections)
    return total


def plain_model(name: str, dtype: torch.dtype) -> PreTrainedModel:
    """As transformers runs it."""
    model = shapes.build(name)
    nn.Module.to(model, dtype)
    model.set_attn_implementation("sdpa")
    return model


def ratio_of(slow: Sample, fast: Sample) -> Sample:
    """Round by round."""
    return Sample(tuple(a / b for a, b in zip(slow.values, fast.values, strict=True)))


def run_engine(model: RewardModel, sequences: Sequence[list[int]], budget: int) -> list[float]:
    """All scores, in batches of up to `budget` tokens in the order of arrival."""
    return [
        score.value
        for batch in batches(sequences, budget)
        for score in model.score([Rendered(None, ids) for ids in batch])
    ]


def batches(sequences: Sequence[list[int]], budget: int) -> Iterator[list[list[int]]]:
    """Cuts `sequences` into batches of up to `budget` tokens."""
    batch: list[list[int]] = []
    tokens = 0
    for ids in sequences:
        if batch and tokens + len(ids) > budget:
            yield batch
            batch, tokens = [], 0
        batch.append(ids)
        tokens += len(ids)
    if batch:
        yield batch


def in_new_order(
    score: Callable[[Sequence[list[int]]], object], sequences: Sequence[list[int]]
) -> Callable[[], object]:
    """`score` of `sequences` in another order at every call, but the same for all who are called as often.

    In real traffic no batch comes twice, and code that is compiled for the sizes of a batch is a part of its cost.
    """
    chance = random.Random(0)
    return lambda: score(chance.sample(sequences, len(sequences)))


def run_sorted(model: PreTrainedModel, sequences: Sequence[list[int]], size: int) -> list[float]:
    """`run_padded` by length; scores in that order."""
    return run_padded(model, sorted(sequences, key=len), size)


@torch.inference_mode()
def run_padded(model: PreTrainedModel, sequences: Sequence[list[int]], size: int) -> list[float]:
    """All scores by transformers, `size` at a time, padded to the longest."""
    scores: list[float] = []
    for start in range(0, len(sequences), size):
        ids = [torch.tensor(one) for one in sequences[start : start + size]]
        inputs = {"input_ids": pad_sequence(ids, batch_first=True)}
        if size > 1:
            inputs["attention_mask"] = pad_sequence([torch.ones_like(one) for one in ids], batch_first=True)
        scores += model(**inputs).logits[:, 0].tolist()
    return scores


def _sizes(model: PreTrainedModel) -> list[tuple[str, tuple[int, int, int]]]:
    """Name and (rows, in, out) of every matrix product that is measured."""
    different = sorted(set(shapes.linears(model)))
    return [(f"{rows} x {w} to {h}", (rows, w, h)) for rows in ROWS for w, h in different]


def linear_products(model: PreTrainedModel) -> dict[str, Callable[[], object]]:
    """`F.linear` at each of the model's shapes and at several numbers of rows."""
    dtype = next(model.parameters()).dtype
    products: dict[str, Callable[[], object]] = {}
    for name, (rows, width, height) in _sizes(model):
        x, weight, bias = (torch.randn(shape, dtype=dtype) for shape in ((rows, width), (height, width), (height,)))
        products[name] = partial(F.linear, x, weight, bias)
    return products


if __name__ == "__main__":
    main()
