"""Flags are checked before anything is loaded."""

from pathlib import Path
from typing import Any

import pytest

from training.arguments import RewardTrainingArguments


def arguments(tmp_path: Path, **flags: Any) -> RewardTrainingArguments:
    given = {"model_name_or_path": "m", "dataset_name": "d", "output_dir": str(tmp_path / "out")}
    return RewardTrainingArguments(**given | flags)


@pytest.mark.parametrize("name", ["model_name_or_path", "dataset_name", "output_dir"])
def test_a_flag_that_is_needed_is_asked_for(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"--{name} is needed"):
        arguments(tmp_path, **{name: None})


@pytest.mark.parametrize(
    ("flag", "value"), [("eval_fraction", 1.0), ("eval_fraction", -0.1), ("max_length", 0), ("max_pairs", 0)]
)
def test_a_value_out_of_range_is_refused(tmp_path: Path, flag: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"--{flag} must be"):
        arguments(tmp_path, **{flag: value})


def test_pairs_keep_the_columns_the_trainer_would_drop(tmp_path: Path) -> None:
    assert arguments(tmp_path).remove_unused_columns is False


@pytest.mark.parametrize(
    ("flag", "value"), [("label_smoothing_factor", 0.1), ("train_sampling_strategy", "group_by_length")]
)
def test_a_flag_of_transformers_that_has_no_meaning_here_is_refused(tmp_path: Path, flag: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"--{flag}"):
        arguments(tmp_path, **{flag: value})
