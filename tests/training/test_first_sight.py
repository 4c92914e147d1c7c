"""What goes against the model is kept, once, with the place of its pair."""

import numpy as np
import torch

from reward_model.rendering import Rendered
from training.batches import collate
from training.examples import Comparison, Example
from training.first_sight import JUDGED, FirstSight, held_out, joined


def example(line: int, responses: int, comparisons: tuple[Comparison, ...] = (Comparison(0, 1),)) -> Example:
    # Longer than the ones before, so that packing puts them in another order.
    return Example(tuple(Rendered(None, [7] * (line + i)) for i in range(responses)), comparisons, line, b"")


RANKING = (Comparison(1, 0), Comparison(0, 2, label=0.5), Comparison(1, 2), Comparison(2, 0, label=0.8))
EXAMPLES = [example(1, 2), example(2, 3, RANKING), example(30, 2), example(4, 2)]


def rows(judged: np.ndarray) -> list[tuple[int, int, float]]:  # type: ignore[type-arg]
    return [(int(one["line"]), int(one["place"]), float(one["margin"])) for one in judged]


def sight(values: dict[int, list[float]], *, times: int = 1) -> FirstSight:
    """Of a model that gives these rewards to the responses of each line."""
    seen = FirstSight()
    step = collate(EXAMPLES, max_batch_tokens=40)["step"]
    for _ in range(times):
        for pack in step.packs:
            members = list(dict.fromkeys(pack.examples.tolist()))
            rewards = torch.tensor([value for i in members for value in values[step.lines[i]]])
            seen.add(rewards, pack, step.lines, 0.25)
    return seen


VALUES = {1: [0.0, 1.0], 2: [3.0, 1.0, 2.0], 30: [5.0, 1.0], 4: [1.0, 1.0]}
AGAINST = [(1, 0, -1.0), (2, 0, -2.0), (2, 2, -1.0), (2, 3, -1.0)]


def test_pairs_whose_chosen_response_loses_are_kept_with_their_places() -> None:
    seen = sight(VALUES)
    assert rows(seen.against()) == AGAINST
    assert seen.judged == 7
    assert set(seen.against()["epoch"]) == {0.25}


def test_a_pair_that_is_dealt_out_twice_is_kept_once() -> None:
    assert rows(sight(VALUES, times=100).against()) == AGAINST
    assert rows(joined([sight(VALUES).against(), sight(VALUES).against()])) == AGAINST


def test_nothing_seen_is_nothing_kept() -> None:
    assert rows(FirstSight().against()) == []
    assert rows(joined([])) == []


def test_held_out_pairs_are_judged_alike() -> None:
    margins = [
        VALUES[one.line][each.chosen] - VALUES[one.line][each.rejected] for one in EXAMPLES for each in one.comparisons
    ]
    judged = held_out(EXAMPLES, margins)
    assert judged.dtype == JUDGED
    assert rows(judged) == AGAINST
    assert np.isnan(judged["epoch"]).all()
