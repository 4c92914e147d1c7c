"""Flags are checked before anything is loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import HfArgumentParser

from reward_model.precision import choose_precision
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


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"loss_type": "hinge"}, "--loss_type must be one of bradley_terry, scaled_bradley_terry, regression"),
        ({"label_smoothing": 0.5}, "--label_smoothing must be within"),
        ({"center_rewards_coefficient": -0.1}, "--center_rewards_coefficient must be 0 or more"),
        ({"layer_decay": 0.0}, "--layer_decay must be within"),
        ({"head_learning_rate_factor": 0.0}, "--head_learning_rate_factor must be positive"),
        ({"max_batch_tokens": 0}, "--max_batch_tokens must be positive"),
        ({"attributes": ["a"]}, "--attributes and --loss_type regression need each other"),
        ({"loss_type": "regression"}, "--attributes and --loss_type regression need each other"),
        ({"loss_type": "regression", "attributes": ["a", "a"], "attribute_weights": [1, 1]}, "must differ"),
        ({"loss_type": "regression", "attributes": ["a", "b"]}, "one number for each of --attributes"),
        ({"loss_type": "regression", "attributes": ["a"], "attribute_weights": [0.0]}, "must be finite, and not all 0"),
        ({"loss_type": "regression", "attributes": ["a"], "label_smoothing": 0.1}, "ratings are no labels"),
        ({"loss_type": "regression", "attributes": ["a"], "center_rewards_coefficient": 0.1}, "a level of their own"),
        ({"per_device_eval_batch_size": 4}, "batches are bounded by --max_batch_tokens"),
        ({"torch_empty_cache_steps": 4}, "--torch_empty_cache_steps"),
        ({"optim": "schedule_free_adamw"}, "--optim schedule_free_adamw"),
        ({"lora_r": 8}, "--lora_r is for --use_peft"),
        ({"lora_target_modules": ["q_proj"]}, "--lora_target_modules is for --use_peft"),
        ({"use_peft": True, "lora_alpha": 0}, "--lora_alpha must be positive"),
        ({"use_peft": True, "lora_dropout": 1.0}, "--lora_dropout must be within"),
        ({"use_peft": True, "lora_target_modules": []}, "--lora_target_modules needs a name"),
        ({"dtype": "bfloat16"}, "trained weights stay in fp32"),
        ({"dtype": "float16", "use_peft": True}, "--dtype must be float32 or bfloat16"),
        ({"neftune_noise_alpha": 5.0}, "--neftune_noise_alpha"),
        ({"seed": -1}, r"--seed must be within \[0, 2\*\*32\), not -1"),
        ({"seed": 2**32}, "--seed must be within"),
        ({"save_only_model": True}, "no run could be resumed from it"),
        ({"accelerator_config": {"split_batches": True}}, "each example counts once an epoch"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(tmp_path: Path, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **flags)


def test_one_attribute_is_the_reward_itself(tmp_path: Path) -> None:
    args = arguments(tmp_path, loss_type="regression", attributes=["quality"])
    assert (args.scalarisation.names, args.scalarisation.weights) == (("quality",), (1.0,))


@pytest.fixture
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")


@pytest.mark.usefixtures("nothing_said")
def test_bf16_is_taken_where_it_is_fast(tmp_path: Path) -> None:
    fast = choose_precision().dtype == torch.bfloat16
    args = arguments(tmp_path)
    assert args.bf16 is fast
    assert "bf16" in args.given, "what was computed in belongs to the record"


@pytest.mark.usefixtures("nothing_said")
def test_what_is_said_of_bf16_holds(tmp_path: Path) -> None:
    for said in (True, False):
        assert arguments(tmp_path, bf16=said).bf16 is said


def test_accelerates_own_setting_decides_where_the_flag_is_silent(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    assert args.bf16 is False
    assert args.mixed_precision == "no"


@pytest.mark.parametrize(("flags", "bf16"), [(["--bf16"], True), (["--bf16", "false"], False), ([], False)])
def test_bf16_needs_no_value(tmp_path: Path, flags: list[str], bf16: bool) -> None:
    names = ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", str(tmp_path / "out")]
    parser = HfArgumentParser(RewardTrainingArguments)
    (args,) = parser.parse_args_into_dataclasses([*names, *flags])
    assert args.bf16 is bf16
