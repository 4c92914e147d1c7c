"""JudgeBench: the share of all pairs whose right response scores higher, whichever side it stands on."""

import pytest

from training.benchmarks.judgebench import CATEGORIES, PUBLISHED, Judged, check, result, to_item
from training.pairs import BadRow

GPT, CLAUDE = PUBLISHED


def row(source: str, label: str = "A>B", prompt: str = "q", **changes: object) -> dict[str, object]:
    return {
        "pair_id": "x",
        "source": source,
        "question": prompt,
        "response_model": GPT,
        "response_A": "first",
        "response_B": "second",
        "label": label,
        **changes,
    }


def item(source: str, label: str = "A>B", prompt: str = "q") -> Judged:
    return to_item(row(source, label, prompt), 1)


def test_the_right_response_stands_first_whatever_the_label() -> None:
    assert item("livecodebench", "A>B").responses == ("first", "second")
    assert item("livecodebench", "B>A").responses == ("second", "first")


def test_the_published_sets_have_their_sizes() -> None:
    assert {name: sum(parts.values()) for name, parts in PUBLISHED.items()} == {GPT: 350, CLAUDE: 270}


def test_the_score_is_the_share_of_pairs_and_a_tie_is_wrong() -> None:
    items = [
        item("mmlu-pro-law"),
        item("mmlu-pro-law", prompt="r"),
        item("mmlu-pro-computer science", prompt="s"),
        item("livebench-reasoning"),
        item("livebench-math"),
        item("livecodebench"),
    ]
    scores = [(1.0, 0.0), (1.0, 1.0), (1.0, 0.5), (0.0, 1.0), (2.0, 1.0), (-1.0, -2.0)]
    found = result(items, scores)
    assert found.score is not None
    assert (found.score.n, found.score.accuracy, found.ties) == (6, pytest.approx(4 / 6), 1)
    by_category = {name: one and one.accuracy for name, one in found.by_category.items()}
    assert by_category == {
        "mmlu-pro": pytest.approx(2 / 3),
        "livebench-reasoning": 0,
        "livebench-math": 1,
        "livecodebench": 1,
    }
    assert found.by_subset["mmlu-pro-law"].accuracy == 0.5
    assert not found.coverage.complete


@pytest.mark.parametrize("model", PUBLISHED)
def test_a_set_of_the_published_sizes_is_complete(model: str) -> None:
    items = [
        to_item(row(source, prompt=f"{source} {i}", response_model=model), 1)
        for source, n in PUBLISHED[model].items()
        for i in range(n)
    ]
    assert result(items, [(1.0, 0.0)] * len(items)).coverage.complete


def test_a_missing_category_leaves_no_score_and_an_unknown_one_is_not_in_it() -> None:
    three = [item(source) for source in CATEGORIES[:3]]
    missing = result(three, [(1.0, 0.0)] * 3)
    assert (missing.score, missing.coverage.missing) == (None, ("livecodebench",))
    extra = result([*three, item("livecodebench"), item("riddles")], [*[(1.0, 0.0)] * 4, (0.0, 1.0)])
    assert extra.score is not None
    assert (extra.score.n, extra.score.accuracy, extra.overall.accuracy) == (4, 1, 0.8)
    assert extra.coverage.extra == ("riddles",)


def test_responses_of_two_models_are_two_benchmarks() -> None:
    other = to_item(row("livecodebench", response_model=CLAUDE), 2)
    check([other])
    with pytest.raises(BadRow, match="for one of gpt-4o-2024-05-13 or claude-3-5-sonnet-20240620 at a time"):
        check([item("livecodebench"), other])
    with pytest.raises(BadRow, match="`response_model` is someone"):
        check([to_item(row("livecodebench", response_model="someone"), 1)])


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"label": "A=B"}, "`label` must be one of A>B, B>A, not 'A=B'"),
        ({"label": None}, "there is no `label`"),
        ({"question": None}, "there is no `question`"),
        ({"response_B": None}, "there is no `response_B`"),
    ],
)
def test_a_row_of_another_form_is_bad(bad: dict[str, object], said: str) -> None:
    with pytest.raises(BadRow, match=said):
        to_item(row("livecodebench") | bad, 1)
