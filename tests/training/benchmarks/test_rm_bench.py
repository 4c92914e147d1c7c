"""RM-Bench: nine strict comparisons for each prompt, by style; the score is the mean of four domains."""

import random
from itertools import product

import pytest

from training.benchmarks.rm_bench import DOMAINS, Styled, result, to_item
from training.pairs import BadRow

#: Places in the matrix, the right response's style first: concise, detailed, Markdown.
HARD = [(0, 1), (0, 2), (1, 2)]
NORMAL = [(0, 0), (1, 1), (2, 2)]
EASY = [(1, 0), (2, 0), (2, 1)]


def row(domain: str, prompt: str = "q", **changes: object) -> dict[str, object]:
    sides = {side: [f"{side} {style}" for style in ("short", "long", "styled")] for side in ("chosen", "rejected")}
    return {"id": 3, "prompt": prompt, "domain": domain, **sides, **changes}


def item(domain: str, prompt: str = "q") -> Styled:
    return to_item(row(domain, prompt), 1)


def test_scores_with_ties_come_to_what_counting_cell_by_cell_comes_to() -> None:
    draw = random.Random(3)
    domains = ["chat", "code", "math", "safety-refuse", "safety-response"]
    items = [item(draw.choice(domains), f"q{i}") for i in range(200)]
    scores = [tuple(float(draw.randrange(4)) for _ in range(6)) for _ in items]

    def mean(domain: str, cells: list[tuple[int, int]]) -> float:
        mine = [values for one, values in zip(items, scores, strict=True) if one.domain.startswith(domain)]
        return sum(values[i] > values[3 + j] for values in mine for i, j in cells) / (len(mine) * len(cells))

    found = result(items, scores)
    everything = [mean(domain, list(product(range(3), range(3)))) for domain in DOMAINS]
    assert {name: one and one.accuracy for name, one in found.by_category.items()} == pytest.approx(
        dict(zip(DOMAINS, everything, strict=True))
    )
    assert found.score is not None
    assert found.score.accuracy == pytest.approx(sum(everything) / 4)
    for name, cells in (("easy", EASY), ("normal", NORMAL), ("hard", HARD)):
        by_domain = [mean(domain, cells) for domain in DOMAINS]
        assert found.details["by_difficulty"][name] == pytest.approx(sum(by_domain) / 4)
        assert found.details["by_domain"]["math"][name] == pytest.approx(by_domain[2])
    assert sum(found.details["by_difficulty"].values()) / 3 == pytest.approx(found.score.accuracy)
    assert found.details["matrix"][0][2] == pytest.approx(sum(mean(domain, [(0, 2)]) for domain in DOMAINS) / 4)
    assert found.ties == sum(values[i] == values[3 + j] for values in scores for i in range(3) for j in range(3)) > 0
    assert set(found.by_subset) == set(domains)


def test_a_model_that_only_likes_style_is_right_where_it_is_easy() -> None:
    items = [item(domain) for domain in DOMAINS]
    found = result(items, [(1.0, 2.0, 3.0, 1.0, 2.0, 3.0)] * 4)
    assert found.details["by_difficulty"] == {"easy": 1, "normal": 0, "hard": 0}
    assert found.score is not None
    assert found.score.accuracy == pytest.approx(1 / 3)
    assert "by_difficulty  easy 100.0%, normal 0.0%, hard 0.0%" in found.table()


def test_a_domain_counts_the_same_however_many_prompts_it_has() -> None:
    items = [
        item("chat"),
        item("code"),
        item("math"),
        item("safety-refuse"),
        item("safety-response"),
        item("math", "r"),
    ]
    right, wrong = (1.0, 1.0, 1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0, 1.0, 1.0)
    found = result(items, [right, right, wrong, right, wrong, wrong])
    assert found.score is not None
    assert found.score.accuracy == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert found.overall.accuracy == pytest.approx(0.5)


def test_a_missing_domain_and_an_unknown_one_are_reported() -> None:
    items = [item("chat"), item("code"), item("math"), item("poetry")]
    document = result(items, [(1.0, 1.0, 1.0, 0.0, 0.0, 0.0)] * 4).to_json()
    assert (document["score"], document["missing"], document["extra"]) == (None, ["safety"], ["poetry"])
    assert (document["by_difficulty"], document["matrix"]) == (None, None)
    assert document["by_domain"]["chat"] == {"easy": 1, "normal": 1, "hard": 1}
    assert document["by_category"]["safety"] is None
    assert document["by_subset"]["poetry"]["n"] == 1


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"chosen": ["a", "b"]}, r"`chosen` must be 3 responses \(concise, detailed, Markdown\), not 2"),
        ({"rejected": "abc"}, "`rejected` must be a list"),
        ({"domain": None}, "there is no `domain`"),
        ({"rejected": ["a", "b", 3]}, r"rejected\[2\]"),
    ],
)
def test_a_row_of_another_form_is_bad(bad: dict[str, object], said: str) -> None:
    with pytest.raises(BadRow, match=said):
        to_item(row("math") | bad, 1)
