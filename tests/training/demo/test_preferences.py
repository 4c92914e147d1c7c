"""The project's own preference pairs: balanced, clean, and held out by prompt."""

from collections import Counter
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

import training.demo
from training.data import Preferences, read_preferences

HERE = Path(training.demo.__file__).parent
CATEGORIES = {
    "concision", "formatting", "harmlessness", "helpfulness", "honesty", "politeness", "reasoning", "refusal",
    "style", "truthfulness",
}  # fmt: skip


def read(part: str) -> Preferences:
    return read_preferences(str(HERE / f"{part}.jsonl"))


@pytest.mark.parametrize(("part", "fewest"), [("train", 400), ("heldout", 100)])
def test_every_row_is_a_usable_pair(part: str, fewest: int) -> None:
    preferences = read(part)
    assert preferences.rejected_rows.rejected == 0
    assert len(preferences.pairs) >= fewest
    assert {pair.category for pair in preferences.pairs} == CATEGORIES


@pytest.mark.parametrize("part", ["train", "heldout"])
def test_length_does_not_give_the_answer_away(part: str) -> None:
    pairs = read(part).pairs
    longer = sum(len(pair.chosen) > len(pair.rejected) for pair in pairs)
    assert 0.44 < longer / len(pairs) < 0.56


def test_no_prompt_is_both_trained_on_and_held_out() -> None:
    train, held_out = ({pair.prompt[0].content.strip().lower() for pair in read(p).pairs} for p in ("train", "heldout"))
    assert not train & held_out


def test_the_example_asks_ten_prompts_that_were_not_trained_on() -> None:
    source = (HERE.parents[1] / "examples" / "compare_answers.py").read_text(encoding="utf-8")
    spec = spec_from_loader("compare_answers", loader=None)
    assert spec is not None
    example = module_from_spec(spec)
    exec(compile(source, "compare_answers.py", "exec"), example.__dict__)
    trained = {pair.prompt[0].content for pair in read("train").pairs}
    assert [pair[0] in trained for pair in example.PAIRS] == [True, True] + [False] * 10


def test_prompts_are_varied() -> None:
    prompts = Counter(pair.prompt[0].content for pair in read("train").pairs)
    assert len(prompts) > 0.95 * prompts.total()
    assert max(Counter(prompt.split()[0] for prompt in prompts).values()) < 0.25 * len(prompts)
