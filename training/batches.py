"""Examples as packed batches: no padding, a prompt computed once for its responses, and memory bounded by tokens.

How many examples make a step decides what is learned; how many tokens are computed at once decides nothing but memory
and speed. So the step's examples are dealt into packs of a token budget, whose weighted losses add up to the step's.
Knows packing, not losses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from reward_model.packing import PackedBatch, pack
from reward_model.prefixes import shared_runs
from training.examples import Example


@dataclass(frozen=True, slots=True)
class Pack:
    """Some examples of a step, computed in one forward pass: `n` sequences, `p` comparisons.

    Attributes:
        batch: the sequences, example after example.
        examples: [n] int64, which example of the step each sequence is of.
        chosen, rejected: [p] int64, sequences.
        margin: [p], NaN where nobody stated one.
        label: [p], probability that the chosen response is the better one.
        weight: [p], 1 / the number of comparisons of its example.
        ratings: [n, k], NaN where nobody rated; k may be 0.
    """

    batch: PackedBatch
    examples: Tensor
    chosen: Tensor
    rejected: Tensor
    margin: Tensor
    label: Tensor
    weight: Tensor
    ratings: Tensor


@dataclass(frozen=True, slots=True)
class Step:
    """What one device learns from before gradients are summed up.

    Attributes:
        packs: none where nothing was left for this device.
        lines: of the examples, in the order that `Pack.examples` counts.
        count: what weighs 1 in the step's mean loss: examples, or responses where they are rated one by one.
    """

    packs: tuple[Pack, ...]
    lines: tuple[int, ...]
    count: int


def collate(examples: Sequence[Example], *, max_batch_tokens: int, share_prefixes: bool = False) -> dict[str, Step]:
    """Deals examples into packs of at most `max_batch_tokens` computed tokens, or one example where that is more.

    Args:
        examples: any number.
        max_batch_tokens: the budget of a pack.
        share_prefixes: a prompt is computed once for its responses, which takes a causal model.

    Returns:
        `{"step": step}`: transformers' Trainer hands mappings through as they are.
    """
    costs = [computed_tokens(example, share_prefixes=share_prefixes) for example in examples]
    packs = [_pack(which, examples, share_prefixes=share_prefixes) for which in _deal(costs, max_batch_tokens)]
    count = sum(len(example.ratings) or 1 for example in examples)
    return {"step": Step(tuple(packs), tuple(example.line for example in examples), count)}


def computed_tokens(example: Example, *, share_prefixes: bool) -> int:
    """How many tokens a forward pass over `example` computes."""
    sequences = [one.token_ids for one in example.sequences]
    lengths = [len(ids) for ids in sequences]
    return sum(lengths) - (sum(shared_runs(sequences).reused(lengths)) if share_prefixes else 0)


def _deal(costs: Sequence[int], budget: int) -> list[list[int]]:
    """Places by pack: the largest first, each into the first pack that has room for it."""
    packs: list[list[int]] = []
    rooms: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        k = next((k for k, room in enumerate(rooms) if room >= costs[i]), None)
        if k is None:
            packs.append([i])
            rooms.append(budget - costs[i])
        else:
            packs[k].append(i)
            rooms[k] -= costs[i]
    return packs


def _pack(which: Sequence[int], examples: Sequence[Example], *, share_prefixes: bool) -> Pack:
    members = [examples[i] for i in which]
    sequences = [one for example in members for one in example.sequences]
    first = [0, *accumulate(len(example.sequences) for example in members)]
    comparisons = [(start, one) for start, example in zip(first, members, strict=False) for one in example.comparisons]
    weights = [1 / len(example.comparisons) for example in members for _ in example.comparisons]
    ratings = [row for example in members for row in example.ratings]
    return Pack(
        batch=pack(
            [one.token_ids for one in sequences],
            [one.segment_ids for one in sequences],
            share_prefixes=share_prefixes,
        ),
        examples=torch.tensor([i for i in which for _ in examples[i].sequences]),
        chosen=torch.tensor([start + one.chosen for start, one in comparisons], dtype=torch.int64),
        rejected=torch.tensor([start + one.rejected for start, one in comparisons], dtype=torch.int64),
        margin=torch.tensor([torch.nan if one.margin is None else one.margin for _, one in comparisons]),
        label=torch.tensor([one.label for _, one in comparisons]),
        weight=torch.tensor(weights),
        ratings=torch.tensor(ratings) if ratings else torch.empty(len(sequences), 0),
    )
