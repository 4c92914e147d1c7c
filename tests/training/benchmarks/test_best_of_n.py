"""Best-of-n: the mean over every subset of n, with ties shared; between a random pick and the best one."""

import random
from itertools import combinations
from statistics import fmean, stdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.benchmarks.best_of_n import Candidates, check, mean_interval, result, to_item
from training.benchmarks.picks import Picks
from training.pairs import BadRow
from training.statistics import t_quantile


def row(quality: list[float], prompt: str = "q", **changes: object) -> dict[str, object]:
    texts = [f"answer {i}" for i in range(len(quality))]
    return {"prompt": prompt, "responses": texts, "scores": quality, **changes}


def item(quality: list[float], prompt: str = "q", **changes: object) -> Candidates:
    return to_item(row(quality, prompt, **changes), 1)


def one_by_one(scores: list[float], quality: list[float], n: int) -> tuple[float, float]:
    """Quality of the pick and how often it is the best, from every subset of n, each in turn."""
    picked, best = [], []
    for subset in combinations(range(len(scores)), n):
        top = max(scores[i] for i in subset)
        shared = [quality[i] for i in subset if scores[i] == top]
        picked.append(fmean(shared))
        best.append(fmean(q == max(quality[i] for i in subset) for q in shared))
    return fmean(picked), fmean(best)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-2, 2)), min_size=1, max_size=7))
def test_picks_are_the_mean_over_every_subset(candidates: list[tuple[int, int]]) -> None:
    scores, quality = ([float(pair[side]) for pair in candidates] for side in (0, 1))
    found = Picks.of(scores, quality, len(candidates))
    expected = [one_by_one(scores, quality, n) for n in range(1, len(candidates) + 1)]
    assert found.quality == pytest.approx([one for one, _ in expected])
    assert found.best == pytest.approx([one for _, one in expected])


def test_picks_stay_exact_for_many_candidates() -> None:
    """Of 2,000 whose quality is their place, the best of n is expected at n (N + 1) / (n + 1)."""
    places = [float(i) for i in range(1, 2001)]
    found = Picks.of(places, places, 2000)
    assert found.quality == pytest.approx([n * 2001 / (n + 1) for n in range(1, 2001)])
    assert set(found.best) == {1.0}


def test_a_curve_lies_between_its_lines_and_is_the_mean_over_prompts() -> None:
    draw = random.Random(4)
    qualities = [[float(draw.randrange(5)) for _ in range(6)] for _ in range(30)]
    scores = [[q + draw.gauss(0, 1) for q in quality] for quality in qualities]
    curve = result([item(quality, f"q{i}") for i, quality in enumerate(qualities)], scores)
    assert [point.n for point in curve.points] == [1, 2, 3, 4, 5, 6]
    for point in curve.points:
        pairs = list(zip(scores, qualities, strict=True))
        expected = [one_by_one(*pair, point.n) for pair in pairs]
        assert point.quality == pytest.approx(fmean(one for one, _ in expected))
        assert point.best.accuracy == pytest.approx(fmean(one for _, one in expected))
        assert point.random == pytest.approx(fmean(fmean(quality) for quality in qualities))
        assert point.oracle == pytest.approx(fmean(one_by_one(q, q, point.n)[0] for q in qualities))
        assert point.random_best == pytest.approx(fmean(one_by_one([0.0] * 6, q, point.n)[1] for q in qualities))
        if point.n > 1:
            assert point.random < point.quality < point.oracle
            assert point.random_best < point.best.accuracy < 1
    first = curve.points[0]
    assert first.quality == pytest.approx(first.random) == pytest.approx(first.oracle)
    assert first.best.accuracy == 1


def test_candidates_that_cannot_be_told_apart_are_picked_at_random() -> None:
    curve = result([item([0.0, 1.0, 2.0])], [[5.0, 5.0, 5.0]])
    for point in curve.points:
        assert point.quality == pytest.approx(point.random) == pytest.approx(1)
        assert point.best.accuracy == pytest.approx(point.random_best)


def test_the_curve_ends_at_the_fewest_candidates_and_says_so() -> None:
    curve = result([item([0.0, 1.0]), item([0.0, 1.0, 2.0], "r")], [[0.0, 1.0], [0.0, 1.0, 2.0]])
    assert len(curve.points) == 2
    assert curve.to_json()["candidates"] == {"fewest": 2, "most": 3}
    assert "2 prompts with 2 candidates (some 3: the curve ends with the fewest)" in curve.table()


def test_the_interval_is_that_of_the_prompts_not_of_the_rows() -> None:
    values = [0.0, 1.0, 3.0, 7.0]
    found = mean_interval(np.array(values), list("abcd"))
    half = t_quantile(3) * stdev(values) / 2
    assert found == pytest.approx((2.75 - half, 2.75 + half))
    assert mean_interval(np.repeat(values, 5), [name for name in "abcd" for _ in range(5)]) == pytest.approx(found)
    assert mean_interval(np.array(values), list("aaaa")) is None


def test_one_prompt_has_no_interval_for_its_quality() -> None:
    document = result([item([0.0, 1.0])], [[0.0, 1.0]]).to_json()
    assert document["curve"][1]["quality_interval"] is None
    assert document["curve"][1]["best_interval"] == (0, 1)


def test_ranks_are_qualities_below_zero_and_categories_are_reported() -> None:
    both = {"scores": None, "responses": ["a", "b"]}
    items = [item([], "q", **both, ranks=[2, 1], category="x"), item([], "r", **both, ranks=[1, 2])]
    curve = result(items, [[0.0, 1.0], [0.0, 1.0]])
    assert curve.points[1].quality == -1.5
    assert curve.points[1].oracle == -1
    assert {name: one.accuracy for name, one in curve.by_category.items()} == {"x": 1}
    assert "quality is minus the rank" in curve.table()
    document = curve.to_json()
    assert (document["n"], document["accuracy"], document["quality_of"]) == (2, 0.5, "ranks")


def test_the_same_response_drawn_twice_is_two_candidates() -> None:
    assert item([1.0, 1.0], responses=["same", "same"]).responses == ("same", "same")


def test_ranks_and_scores_have_no_mean() -> None:
    other = to_item(row([], responses=["a", "b"], scores=None, ranks=[1, 2]), 8)
    with pytest.raises(BadRow, match="the row at 1 has `scores`, but that at 8 `ranks`: use one"):
        check([item([1.0, 2.0]), other])


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"responses": ["one"], "scores": [1]}, "there is no choice"),
        ({"scores": None}, "needs `ranks` or `scores`, one of them; it has neither"),
        ({"ranks": [1, 2, 3]}, "it has ranks and scores"),
        ({"scores": [1, 2]}, "`scores` must be 3 finite numbers"),
        ({"prompt": None}, "`prompt` must be"),
        ({"responses": None}, "there is no `responses`"),
    ],
)
def test_a_row_of_another_form_is_bad(bad: dict[str, object], said: str) -> None:
    with pytest.raises(BadRow, match=said):
        to_item(row([1.0, 2.0, 3.0]) | bad, 1)
