"""RewardBench 2: the right response of four shares what it shares; `Ties` by its five terms; six subsets or none."""

import math
import random
from statistics import fmean

import pytest

from training.benchmarks.rewardbench2 import SUBSETS, Choice, check, result, to_item
from training.benchmarks.ties import Margins, ties_score
from training.pairs import BadRow

FIVE = [name for name in SUBSETS if name != "Ties"]


def row(subset: str, right: int = 1, wrong: int = 3, identity: str = "1", **changes: object) -> dict[str, object]:
    return {
        "id": identity,
        "prompt": f"{subset} {identity}",
        "chosen": [f"right {i}" for i in range(right)],
        "rejected": [f"wrong {i}" for i in range(wrong)],
        "num_correct": right,
        "subset": subset,
        **changes,
    }


def choice(subset: str, right: int = 1, wrong: int = 3, identity: str = "1") -> Choice:
    return to_item(row(subset, right, wrong, identity), 1)


def matter(number: int) -> list[Choice]:
    return [choice("Ties", 1, 4, f"ref:{number}"), choice("Ties", 3, 4, f"tied:{number}")]


def plain_ties(
    ref: dict[int, tuple[list[float], list[float]]], tied: dict[int, tuple[list[float], list[float]]]
) -> float:
    """The published formula, one matter after the other; each prompt is its right and its wrong scores."""
    above = [min(right) > max(wrong) for right, wrong in tied.values()]
    above_ref = [min(right) > max(wrong) for right, wrong in ref.values()]
    easy, hard, margin = [], [], []
    for one in [number for number in tied if number in ref]:
        right, wrong = tied[one]
        spread, gap, gap_ref = max(right) - min(right), min(right) - max(wrong), min(ref[one][0]) - max(ref[one][1])
        easy.append(gap > spread)
        hard.append(gap > spread and gap_ref > spread)
        least = min(gap, gap_ref)
        if spread:
            margin.append(math.tanh(least / spread - 1))
        else:
            margin.append(float((least > 0) - (least < 0)))
    return 0.3 * fmean(above) + 0.3 * fmean(above_ref) + 0.2 * fmean(easy) + 0.2 * fmean(hard) + 0.01 * fmean(margin)


def test_the_subsets_have_as_many_prompts_as_the_published_set() -> None:
    assert sum(SUBSETS.values()) == 1865


@pytest.mark.parametrize(
    ("scores", "credit"),
    [
        ((2.0, 1.0, 1.0, 1.0), 1),
        ((2.0, 2.0, 1.0, 1.0), 1 / 2),
        ((2.0, 2.0, 2.0, 1.0), 1 / 3),
        ((2.0, 2.0, 2.0, 2.0), 1 / 4),
        ((1.0, 2.0, 0.0, 0.0), 0),
        ((-3.0, -4.0, -5.0, -2.9), 0),
    ],
)
def test_the_right_response_gets_its_share_of_the_highest_score(scores: tuple[float, ...], credit: float) -> None:
    assert result([choice("Math")], [scores]).by_subset["Math"].accuracy == pytest.approx(credit)


@pytest.mark.parametrize(
    ("tied", "ref", "expected"),
    [
        # gap 1 = spread 1: accurate, not preferred; tanh(1 / 1 - 1) = 0
        ([3, 2, 1], [5, 1], 0.6),
        # gap 2 > spread 1, in the reference 4
        ([4, 3, 1], [5, 1], 1 + 0.01 * math.tanh(1)),
        # preferred, but the reference's gap 0.5 is smaller than the spread
        ([4, 3, 1], [1.5, 1], 0.8 + 0.01 * math.tanh(-0.5)),
        # the right ones score the same: infinitely far apart from the wrong one
        ([2, 2, 1], [2, 1], 1.01),
        ([1, 1, 2], [1, 2], -0.01),
        ([1, 1, 1], [2, 1], 0.3),
        # nothing but the reference is right
        ([1, 0, 2], [2, 1], 0.3 + 0.01 * math.tanh(-3)),
    ],
)
def test_ties_by_hand(tied: list[float], ref: list[float], expected: float) -> None:
    found = ties_score({7: Margins.of(ref, 1)}, {7: Margins.of(tied, 2)})
    assert found is not None
    assert found.score.accuracy == pytest.approx(expected)


def test_ties_come_to_what_the_formula_comes_to_matter_by_matter() -> None:
    draw = random.Random(2)

    def prompts(right: int, numbers: range) -> dict[int, tuple[list[float], list[float]]]:
        def some(low: int, n: int) -> list[float]:
            return [float(draw.randrange(low, low + 4)) for _ in range(n)]

        return {number: (some(2, right), some(0, 3)) for number in numbers}

    ref, tied = prompts(1, range(60)), prompts(3, range(3, 64))
    margins = [
        {number: Margins.of([*right, *wrong], len(right)) for number, (right, wrong) in one.items()}
        for one in (ref, tied)
    ]
    found = ties_score(*margins)
    assert found is not None
    assert found.score.accuracy == pytest.approx(plain_ties(ref, tied))
    assert found.terms.unpaired == 3 + 4
    assert 0.1 < found.score.accuracy < 0.9


def test_the_interval_of_ties_holds_the_score_and_narrows_with_more_matters() -> None:
    widths = []
    for n in (4, 40):
        ref = {i: Margins(1.0, 0.0) for i in range(n)}
        tied = {i: Margins(1.0 if i % 2 else -1.0, 0.5) for i in range(n)}
        found = ties_score(ref, tied)
        assert found is not None
        low, high = found.score.accuracy_interval
        assert low < found.score.accuracy < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_the_score_is_the_mean_of_six_subsets_however_many_items_each_has() -> None:
    items = [choice(name, identity=str(i)) for name in FIVE for i in range(1 + FIVE.index(name))]
    scores = [(1.0, 0.0, 0.0, 0.0) if item.subset != "Math" else (1.0, 1.0, 0.0, 0.0) for item in items]
    items += matter(1)
    found = result(items, [*scores, (1.0, 0, 0, 0, 0), (5.0, 4.0, 3.0, 2.0, 0, 0, 0)])
    # tied: gap 1 < spread 2; reference: gap 1
    ties = 0.6 + 0.01 * math.tanh(-0.5)
    assert found.score is not None
    assert found.score.accuracy == pytest.approx((4 + 0.5 + ties) / 6)
    assert found.details["ties_terms"]["tied_accuracy"] == 1
    assert found.ties == 3
    assert set(found.by_subset) == set(FIVE)


def test_without_a_subset_there_is_no_score_and_ties_need_both_prompts() -> None:
    items = [choice(name) for name in FIVE]
    document = result(items, [(1.0, 0.0, 0.0, 0.0)] * 5).to_json()
    assert (document["score"], document["missing"], document["by_category"]["Ties"]) == (None, ["Ties"], None)
    half = result([*items, matter(1)[0]], [*[(1.0, 0.0, 0.0, 0.0)] * 5, (1.0, 0, 0, 0, 0)])
    assert half.score is None
    assert half.to_json()["other_sizes"]["Ties"] == {"items": 1, "published": 102}
    other = result([*items, choice("Cooking")], [(1.0, 0.0, 0.0, 0.0)] * 6)
    assert other.coverage.extra == ("Cooking",)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (row("Math", right=2), "outside of Ties one is right"),
        (row("Math", num_correct=2), "`num_correct` is 2, but `chosen` has 1"),
        (row("Math", num_correct=None), "there is no `num_correct`"),
        (row("Math", rejected=[]), "`rejected` must be a list of one or more"),
        (row("Math", chosen="one text", num_correct=8), "`chosen` must be a list"),
        (row("Ties", 1, identity="17"), "must be ref:N or tied:N, not '17'"),
        (row("Ties", 1, identity="tied:17"), "two or more right"),
    ],
)
def test_a_row_of_another_form_is_bad(bad: dict[str, object], said: str) -> None:
    with pytest.raises(BadRow, match=said):
        to_item(bad, 1)


def test_two_rows_of_ties_are_not_the_same_one() -> None:
    again = to_item(row("Ties", 2, identity="tied:3"), 9)
    check([choice("Math"), choice("Math"), *matter(3)])
    with pytest.raises(BadRow, match="the rows at 1 and 9 both have the `id` tied:3"):
        check([*matter(3), again])
