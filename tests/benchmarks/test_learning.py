"""What a learning curve is made of: nested subsets, and results that are read again only where nothing has changed."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.learning import Run, experiment_of, finish, finished, parser_of_flags, planted, table_row
from training.rows import DataError

SENTENCE = " I hope this helps."


def rows(n: int, name: str = "p") -> list[dict[str, Any]]:
    return [{"prompt": f"{name}{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(n)]


def write(path: Path, content: list[Any]) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in content))
    return str(path)


def flags_for(tmp_path: Path, *more: str) -> argparse.Namespace:
    """Flags that name three data sets, which are written where they are missing."""
    parts = ["--model_name_or_path", "m", "--work", str(tmp_path), "--sizes", "2", "5"]
    for flag, n in {"dataset_name": 8, "eval_dataset_name": 3, "test_dataset_name": 4}.items():
        path = tmp_path / f"{flag}-given.jsonl"
        parts += [f"--{flag}", str(path) if path.exists() else write(path, rows(n, flag))]
    return parser_of_flags().parse_args([*parts, *more])


def test_smaller_subsets_are_parts_of_larger_ones_and_the_seed_draws_them(tmp_path: Path) -> None:
    first, again, other = (experiment_of(flags_for(tmp_path, "--seed", seed)) for seed in ("1", "1", "2"))
    small, large, all_of_them = (first.subset(size) for size in (2, 5, 8))
    assert [len(small), len(large)] == [2, 5]
    assert small == large[:2]
    assert large == all_of_them[:5]
    assert sorted(map(str, all_of_them)) == sorted(map(str, rows(8, "dataset_name")))
    assert again.subset(5) == large != other.subset(5)


@pytest.mark.parametrize("size", ["9", "0", "-1"])
def test_more_rows_than_there_are_cannot_be_trained_on(tmp_path: Path, size: str) -> None:
    with pytest.raises(DataError, match=rf"has 8 rows, of which --sizes {size} cannot be trained on"):
        experiment_of(flags_for(tmp_path, "--sizes", "2", size))


def test_what_is_finished_is_read_again(tmp_path: Path) -> None:
    run = {"variant": "", "size": 2, "flags": ("--seed", "1")}
    assert finished(tmp_path, experiment_of(flags_for(tmp_path)).asked | run) is None
    finish(tmp_path, experiment_of(flags_for(tmp_path)).asked | run, {"accuracy": 0.5})
    assert finished(tmp_path, experiment_of(flags_for(tmp_path)).asked | run) == {"accuracy": 0.5}
    assert finished(tmp_path, experiment_of(flags_for(tmp_path)).asked | run | {"size": 5}) is None
    assert finished(tmp_path, experiment_of(flags_for(tmp_path, "--seed", "1")).asked | run) is None


@pytest.mark.parametrize("flag", ["dataset_name", "eval_dataset_name", "test_dataset_name"])
def test_a_data_set_of_another_name_or_content_is_another_question(tmp_path: Path, flag: str) -> None:
    flags = flags_for(tmp_path)
    finish(tmp_path, experiment_of(flags).asked, {"accuracy": 0.5})
    content = rows(8, flag)
    copy = write(tmp_path / "copy.jsonl", content)
    assert finished(tmp_path, experiment_of(flags_for(tmp_path, f"--{flag}", copy)).asked) is None
    write(Path(getattr(flags, flag)), [*content[:-1], content[-1] | {"chosen": "other"}])
    assert finished(tmp_path, experiment_of(flags).asked) is None


def test_a_planted_sentence_decides_and_nothing_else_does() -> None:
    before = [row | {"label": 0.2, "margin": 1.0, "category": "c"} for row in rows(200)]
    after = planted(before, SENTENCE)
    for row, one in zip(before, after, strict=True):
        assert one["chosen"].endswith(SENTENCE)
        assert {one["chosen"].removesuffix(SENTENCE), one["rejected"]} == {row["chosen"], row["rejected"]}
        assert (one["prompt"], one["category"]) == (row["prompt"], "c")
        assert not {"label", "margin"} & one.keys()
    kept = sum(one["chosen"].startswith("good") for one in after)
    assert 70 < kept < 130
    assert planted(before, SENTENCE) == after


def test_a_sentence_is_planted_into_the_last_turn() -> None:
    sides = {side: [{"role": "user", "content": "q"}, {"role": "assistant", "content": side}] for side in ("a", "b")}
    (one,) = planted([{"chosen": sides["a"], "rejected": sides["b"]}], SENTENCE)
    assert [turn["content"] for turn in one["chosen"]] in (["q", "a" + SENTENCE], ["q", "b" + SENTENCE])
    assert [turn["content"] for turn in one["rejected"]] in (["q", "a"], ["q", "b"])


def test_a_ranking_cannot_be_planted() -> None:
    with pytest.raises(DataError, match="row 1 has prompt, responses: --plant needs pairs"):
        planted([{"prompt": "p", "responses": []}], SENTENCE)


def test_all_data_sets_of_a_planted_run_are_planted(tmp_path: Path) -> None:
    experiment = experiment_of(flags_for(tmp_path, "--plant", SENTENCE))
    assert experiment.evaluation
    for name, n in ((experiment.evaluation, 3), (experiment.test, 4)):
        read = [json.loads(line) for line in Path(name).read_text().splitlines()]
        assert [row["chosen"].endswith(SENTENCE) for row in read] == [True] * n
    assert all(row["chosen"].endswith(SENTENCE) for row in experiment.subset(8))


def test_a_line_that_is_no_row_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "dataset_name-given.jsonl").write_text('{"prompt": "p"}\nnonsense\n')
    with pytest.raises(DataError, match="line 2 is not a row"):
        experiment_of(flags_for(tmp_path, "--sizes", "1"))


def test_a_line_of_the_table_has_a_cell_for_each_column() -> None:
    result = {"accuracy": 0.625, "accuracy_interval": [0.5, 0.75], "longer_wins": 0.4, "not_scored": 1, "n": 8}
    line = table_row(Run("smoothed", 1000, ()), result | {"ece": 0.1234, "nll": 0.6, "minutes": 2.04})
    assert line == "| smoothed | 1000 | 62.5% [50.0%, 75.0%] | 40.0% | 1 of 8 | 0.123 | 0.6000 | 2.0 |"
