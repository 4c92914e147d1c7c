"""Trackers see what is logged, and the model's config; what validation says can decide which model is kept."""

import json
from pathlib import Path
from typing import Any

import pytest
import runs
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerState
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from training.arguments import RewardTrainingArguments
from training.train import main


class Notebook(TrainerCallback):
    """A tracker that writes to a file, as those of transformers write to theirs."""

    path: Path

    def on_train_begin(self, args: RewardTrainingArguments, state: TrainerState, control: object, **found: Any) -> None:
        """Notes flags and config, as all of them do."""
        self._note({"flags": args.to_sanitized_dict(), "config": found["model"].config.to_dict()})

    def on_log(
        self, args: object, state: TrainerState, control: object, logs: dict[str, float] | None = None, **_: object
    ) -> None:
        """Notes numbers."""
        self._note({"step": state.global_step, **(logs or {})})

    def _note(self, entry: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(entry, default=str) + "\n")


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    Notebook.path = tmp_path / "notebook.jsonl"
    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "notebook", Notebook)
    return Notebook.path


def test_a_tracker_gets_flags_config_and_every_number(tmp_path: Path, notebook: Path) -> None:
    assert main(runs.argv(tmp_path, "out", report_to="notebook")) == 0
    begin, *entries = map(json.loads, notebook.read_text().splitlines())
    assert begin["flags"]["learning_rate"] == 1e-3
    assert begin["config"]["model_type"] == "llama"
    training = [entry for entry in entries if "loss" in entry]
    assert [entry["step"] for entry in training] == [1, 2, 3, 4, 5, 6, 7]
    assert training[0].keys() >= {"loss", "accuracy", "margin", "reward_mean", "reward_std", "learning_rate"}
    assert any({"eval_loss", "eval_accuracy", "eval_margin"} <= entry.keys() for entry in entries)


MISSING = min(INTEGRATION_TO_CALLBACK.keys() - set(get_available_reporting_integrations()))


@pytest.mark.parametrize(
    ("tracker", "message"),
    [("tensorboards", "tensorboards is not one of azure_ml, "), (MISSING, f"{MISSING}: that is not installed")],
)
def test_a_tracker_that_is_not_there_is_an_error_before_anything_is_loaded(
    tmp_path: Path, tracker: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(runs.argv(tmp_path, "out", report_to=tracker))
    assert message in capsys.readouterr().err


def test_the_best_model_is_the_one_that_is_written(tmp_path: Path) -> None:
    best = {"load_best_model_at_end": "true", "metric_for_best_model": "margin", "greater_is_better": "false"}
    flags = {"save_strategy": "epoch", "eval_strategy": "epoch", "num_train_epochs": 2, "save_total_limit": 1}
    assert main(runs.argv(tmp_path, "out", **flags, **best)) == 0
    # Margins grow, so the smallest is that of the first epoch.
    kept = load_file(tmp_path / "out.trainer" / "checkpoint-7" / "model.safetensors")
    written = runs.weights(tmp_path / "out")
    assert all(torch.equal(kept[f"model.{name}"], tensor) for name, tensor in written.items())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"eval_fraction": 0, "eval_dataset_name": ""}, "the best model is chosen on held-out examples"),
        ({"metric_for_best_model": "f1"}, "f1 is not among what validation gives: loss, accuracy, margin"),
    ],
)
def test_a_best_model_that_nothing_tells_is_an_error(
    tmp_path: Path, flags: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    best = {"load_best_model_at_end": "true", "save_strategy": "epoch"}
    assert main(runs.argv(tmp_path, "out", pairs=8, **best | flags)) == 1
    assert message in capsys.readouterr().err
