"""Rewards of many sequences, in batches of a token budget: what validation, evaluation and benchmarks share.

Knows neither where they come from nor what their rewards will be used for.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from reward_model.model import RewardModel
from reward_model.rendering import Rendered


def score_groups(
    model: RewardModel,
    groups: Sequence[Sequence[Rendered]],
    batch_tokens: int | None = None,
    done: Callable[[int], object] = lambda _: None,
    *,
    part: tuple[int, int] = (0, 1),
) -> list[tuple[float, ...]]:
    """Raw rewards of the sequences of every group, in order.

    A group (the responses to one prompt, say) is never divided, so that what it has in common is computed once.

    Args:
        model: in evaluation mode.
        groups: in any number, each of one or more sequences.
        batch_tokens: per forward pass; at least one group. None: as many as suit the model's device.
        done: called with the number of groups after each forward pass.
        part: (i, n) to compute the i-th of n parts alone, with as many forward passes as any other; what is not
            computed is left empty.
    """
    scored: list[tuple[float, ...]] = [()] * len(groups)
    batches = list(_batches(groups, model.batch_tokens if batch_tokens is None else batch_tokens))
    index, parts = part
    # The last batch is the cheapest to compute once more.
    batches += batches[-1:] * (-len(batches) % parts)
    for batch in batches[index::parts]:
        members = [groups[i] for i in batch]  # looked up once: they may lie on disk
        values = iter(model.score(list(chain.from_iterable(members))))
        for i, group in zip(batch, members, strict=True):
            scored[i] = tuple(next(values).value for _ in group)
        done(len(batch))
    return scored


def _batches(groups: Sequence[Sequence[Rendered]], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of groups by length, the longest first, so that a batch too large for the device fails at once.

    A batch holds what stays within the budget were all as long as its longest, so that it holds for padded models too.
    """
    longest = [max(len(one.token_ids) for one in group) for group in groups]
    batch: list[int] = []
    tokens = 0
    for i in sorted(range(len(groups)), key=lambda i: -longest[i]):
        most = longest[batch[0]] if batch else longest[i]
        if batch and tokens + most * len(groups[i]) > batch_tokens:
            yield batch
            batch, tokens, most = [], 0, longest[i]
        batch.append(i)
        tokens += most * len(groups[i])
    if batch:
        yield batch
