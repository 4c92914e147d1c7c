"""Rewards of many pairs, in batches of a token budget: what validation, evaluation and benchmarks share.

Knows neither where the pairs come from nor what their rewards will be used for.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from reward_model.model import RewardModel
from training.batches import RenderedPair


def score_pairs(
    model: RewardModel,
    pairs: Sequence[RenderedPair],
    batch_tokens: int | None = None,
    done: Callable[[int], object] = lambda _: None,
) -> list[tuple[float, float]]:
    """Raw rewards (chosen, rejected) of every pair, in order.

    Args:
        model: in evaluation mode.
        pairs: in any number.
        batch_tokens: per forward pass; at least one sequence. None: as many as suit the model's device.
        done: called with the number of sequences after each forward pass.
    """
    inputs = list(chain.from_iterable((pair.chosen, pair.rejected) for pair in pairs))
    values = [0.0] * len(inputs)
    budget = model.batch_tokens if batch_tokens is None else batch_tokens
    for batch in _batches([len(one.token_ids) for one in inputs], budget):
        for i, score in zip(batch, model.score([inputs[i] for i in batch]), strict=True):
            values[i] = score.value
        done(len(batch))
    return list(zip(values[::2], values[1::2], strict=True))


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Groups indices by length, longest first, so that a batch too large for the device fails at once.

    A batch holds what stays within the budget were all as long as its longest, so that it holds for padded models too.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // lengths[order[start]])
        yield order[start : start + size]
        start += size
