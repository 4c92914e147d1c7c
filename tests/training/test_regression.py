"""Training on ratings, where what matters is what was rated and not where it stands."""

import json
from pathlib import Path

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
