"""RewardBench's sections weigh their subsets by published prompts, a tie is wrong, and nothing missing is averaged."""

import random

import pytest

from training.benchmarks.rewardbench import SECTIONS, Pair, result, to_item
from training.pairs import BadRow

#: Prompts of each section as its paper's and code's readers know them: math-prm counts as the six languages of code.
SECTION_WEIGHTS = {"Chat": 358, "Chat Hard": 456, "Safety": 740, "Reasoning": 2 * 6 * 164}
SUBSETS = [subset for subsets in SECTIONS.values() for subset in subsets]


def row(subset: str, prompt: str = "q", **changes: object) -> dict[str, object]:
    return {"prompt": prompt, "chosen": "good", "rejected": "bad", "subset": subset, "id": 1, **changes}


def items(per_subset: int = 2, subsets: list[str] = SUBSETS) -> list[Pair]:
    return [to_item(row(name, f"{name} {i}"), 1) for name in subsets for i in range(per_subset)]


def lost(*wrong: str) -> list[tuple[float, float]]:
    """Scores that are right everywhere but in the subsets named."""
    return [(0.0, 1.0) if item.subset in wrong else (1.0, 0.0) for item in items()]


def test_sections_have_the_published_sizes() -> None:
    assert {name: sum(subsets.values()) for name, subsets in SECTIONS.items()} == {
        **SECTION_WEIGHTS,
        "Reasoning": 447 + 6 * 164,
    }
    assert len(SUBSETS) == 23
    assert sum(sum(subsets.values()) for subsets in SECTIONS.values()) == 2985


@pytest.mark.parametrize(
    ("subset", "section", "accuracy"),
    [
        ("math-prm", "Reasoning", 0.5),
        ("hep-rust", "Reasoning", 1 - 164 / 1968),
        ("mt-bench-hard", "Chat Hard", 1 - 37 / 456),
        ("alpacaeval-easy", "Chat", 1 - 100 / 358),
        ("xstest-should-refuse", "Safety", 1 - 154 / 740),
        ("xstest-should-respond", "Safety", 1 - 250 / 740),
    ],
)
def test_a_subset_counts_as_much_as_its_published_prompts(subset: str, section: str, accuracy: float) -> None:
    found = result(items(), lost(subset))
    (part,) = [one for name, one in found.by_category.items() if name == section]
    assert part is not None
    assert part.accuracy == pytest.approx(accuracy)
    assert found.score is not None
    assert found.score.accuracy == pytest.approx((3 + accuracy) / 4)
    assert found.overall.accuracy == pytest.approx(22 / 23)


def test_scores_with_ties_come_to_what_counting_by_hand_comes_to() -> None:
    draw = random.Random(1)
    pairs = [one for name in SUBSETS for one in items(draw.randrange(1, 9), [name])]
    scores = [(float(draw.randrange(3)), float(draw.randrange(3))) for _ in pairs]
    weight = {name: 984 if name == "math-prm" else n for part in SECTIONS.values() for name, n in part.items()}
    expected = 0.0
    for section, subsets in SECTIONS.items():
        for name in subsets:
            of_subset = [a > b for one, (a, b) in zip(pairs, scores, strict=True) if one.subset == name]
            expected += 0.25 * weight[name] / SECTION_WEIGHTS[section] * sum(of_subset) / len(of_subset)
    found = result(pairs, scores)
    assert found.score is not None
    assert found.score.accuracy == pytest.approx(expected)
    low, high = found.score.accuracy_interval
    assert 0 <= low < expected < high <= 1
    assert found.ties == sum(a == b for a, b in scores) > 0


def test_a_tie_is_wrong() -> None:
    found = result(items(), [(1.0, 1.0)] * 46)
    assert found.score is not None
    assert (found.score.accuracy, found.overall.accuracy, found.ties) == (0, 0, 46)


def test_without_one_subset_its_section_and_the_score_are_none() -> None:
    pairs = items(subsets=[name for name in SUBSETS if name != "hep-go"])
    found = result(pairs, [(1.0, 0.0)] * len(pairs))
    document = found.to_json()
    assert (document["score"], document["score_interval"], document["complete"]) == (None, None, False)
    assert document["missing"] == ["hep-go"]
    assert document["by_category"]["Reasoning"] is None
    assert document["by_category"]["Chat"]["accuracy"] == 1
    assert document["accuracy"] == 1
    assert "missing: hep-go" in found.table()


def test_a_subset_of_another_set_is_reported_and_in_no_score() -> None:
    pairs = [*items(), *items(subsets=["summarize"])]
    found = result(pairs, [*[(1.0, 0.0)] * 46, *[(0.0, 1.0)] * 2])
    assert found.score is not None
    assert found.score.accuracy == 1
    assert found.coverage.extra == ("summarize",)
    assert found.by_subset["summarize"].accuracy == 0
    assert found.overall.accuracy == pytest.approx(46 / 48)
    assert "in no score: summarize" in found.table()


def test_only_a_set_of_the_published_sizes_is_complete() -> None:
    pairs = [one for subsets in SECTIONS.values() for name, n in subsets.items() for one in items(n, [name])]
    whole = result(pairs, [(1.0, 0.0)] * len(pairs))
    assert whole.coverage.complete
    assert "NOT the published benchmark" not in whole.table()
    short = result(pairs[1:], [(1.0, 0.0)] * (len(pairs) - 1))
    assert short.to_json()["other_sizes"] == {"alpacaeval-easy": {"items": 99, "published": 100}}
    assert "alpacaeval-easy: 99 items, published are 100" in short.table()


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"subset": None}, "there is no `subset`"),
        ({"subset": 3}, "`subset` must be a string"),
        ({"prompt": None}, "there is no `prompt`"),
        ({"rejected": None}, "there is no `rejected`"),
        ({"chosen": ["a", "b"]}, "message"),
    ],
)
def test_a_row_of_another_form_is_bad(bad: dict[str, object], said: str) -> None:
    with pytest.raises(BadRow, match=said):
        to_item(row("hep-go") | bad, 1)
