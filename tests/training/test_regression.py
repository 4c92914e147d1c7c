"""Training on ratings, where what matters is what was rated and not where it stands."""

import json
from pathlib import Path

import pytest
import runs
import tiny
import torch

from training.arguments import RewardTrainingArguments
from training.train import train


def test_the_order_of_rated_rows_changes_nothing_but_rounding(tmp_path: Path) -> None:
    # Of one prompt come one to three responses, so that what stands together would weigh otherwise.
    rows = [
        {"prompt": f"p{i}", "response": f"answer {i} {k}", "good": i + k} for i in range(5) for k in range(i % 3 + 1)
    ]
    tiny.tiny_base(tmp_path / "base", "bert")
    for name, ordered in {"grouped": rows, "mixed": sorted(rows, key=lambda row: row["response"][-1])}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ordered))
        args = RewardTrainingArguments(
            model_name_or_path=str(tmp_path / "base"),
            dataset_name=str(tmp_path / f"{name}.jsonl"),
            output_dir=str(tmp_path / name),
            loss_type="regression",
            attributes=["good"],
            eval_fraction=0.0,
            # All rows in one step, so that steps are the same too; of plain gradients, which rounding does not turn.
            per_device_train_batch_size=len(rows),
            num_train_epochs=4,
            optim="sgd",
            learning_rate=0.1,
            disable_tqdm=True,
        )
        train(args)
    base, grouped, mixed = (runs.weights(tmp_path / name) for name in ("base", "grouped", "mixed"))
    assert all(torch.allclose(grouped[key], mixed[key], atol=2e-5) for key in grouped)
    assert not torch.allclose(grouped["classifier.weight"], base["classifier.weight"], atol=1e-3)


def test_singly_rated_responses_are_judged_by_their_ratings(tmp_path: Path) -> None:
    """Nobody compared them, so there is no accuracy; rewards stand beside ratings, and the best model is kept."""
    rows = [{"prompt": f"p{i}", "response": "ha" * (i % 5 + 1), "good": i % 5, "kind": 1} for i in range(40)]
    (tmp_path / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny.tiny_base(tmp_path / "base", "bert")
    args = RewardTrainingArguments(
        model_name_or_path=str(tmp_path / "base"),
        dataset_name=str(tmp_path / "rated.jsonl"),
        output_dir=str(tmp_path / "out"),
        loss_type="regression",
        attributes=["good", "kind"],
        attribute_weights=[1.0, 0.0],
        eval_fraction=0.25,
        num_train_epochs=12,
        per_device_train_batch_size=8,
        learning_rate=3e-3,
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="rating_loss",
        disable_tqdm=True,
    )
    metrics = train(args).training["metrics"]
    assert "accuracy" not in metrics
    assert metrics["rating_correlation"] > 0.9
    assert metrics["rating_loss"] < 1, "the variance of the ratings is 2"
    states = tmp_path.glob("out*/**/trainer_state.json")
    history = max((json.loads(state.read_text())["log_history"] for state in states), key=len)
    losses = [entry["eval_rating_loss"] for entry in history if "eval_rating_loss" in entry]
    assert metrics["rating_loss"] == pytest.approx(min(losses), abs=1e-4)
