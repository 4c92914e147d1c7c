"""The report on labels: the most doubtful pair first, with its text, and planted mistakes are found."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from reward_model.calibration import Calibration
from training.arguments import RewardTrainingArguments
from training.data import read_preferences
from training.first_sight import JUDGED
from training.label_noise import LabelNoise, check_place
from training.rows import DataError
from training.train import train

ROWS: list[dict[str, Any]] = [
    {"prompt": "p", "chosen": "a", "rejected": "b", "source": "s", "category": "c", "margin": 2.5},
    {"prompt": "q", "responses": ["x", "y", "z"], "ranks": [2, 1, 3]},
    {"prompt": "r", "chosen": "d", "rejected": "é", "label": 0.2},
]
CALIBRATED = Calibration(temperature=2.0, calibrated=True, reason=None, pairs=100)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def noise(against: dict[str, list[tuple[int, int, float, float]]], *, partial: bool = False) -> LabelNoise:
    return LabelNoise({name: np.array(rows, JUDGED) for name, rows in against.items()}, CALIBRATED, 50, partial)


def test_the_most_doubtful_pair_comes_first_with_its_text(tmp_path: Path) -> None:
    name = write(tmp_path / "train.jsonl", ROWS)
    report = noise({name: [(1, 0, -3.0, 0.5), (2, 1, -9.0, 0.12345), (3, 0, -4.0, math.nan), (2, 2, -0.5, 0.2)]})
    report.write(tmp_path / "new" / "noise.jsonl")
    first, second, third = read(tmp_path / "new" / "noise.jsonl")
    assert (first["line"], first["prompt"], first["chosen"], first["rejected"]) == (
        2,
        [{"role": "user", "content": "q"}],
        "x",
        "z",
    )
    assert (first["probability"], first["reward_margin"], first["epoch"]) == (
        pytest.approx(1 / (1 + math.exp(4.5))),
        -9.0,
        0.1235,
    )
    assert (second["chosen"], second["rejected"], second["label"], second["epoch"]) == ("é", "d", 0.8, None)
    assert (third["source"], third["category"], third["margin"], third["dataset"]) == ("s", "c", 2.5, name)
    assert report.record() == {
        "threshold": 0.2,
        "disagreements": 3,
        "judged_training_pairs": 50,
        "partial": False,
    }


def test_the_threshold_is_on_the_calibrated_probability(tmp_path: Path) -> None:
    name = write(tmp_path / "train.jsonl", ROWS)
    edge = 2 * math.log(0.2 / 0.8)
    assert noise({name: [(1, 0, edge - 0.01, 0.5), (3, 0, edge + 0.01, 0.5)]}).record()["disagreements"] == 1


def test_pairs_of_several_sets_stand_in_one_report_that_can_be_read_as_a_data_set(tmp_path: Path) -> None:
    train_set, held_out = write(tmp_path / "train.jsonl", ROWS), write(tmp_path / "held_out.jsonl", ROWS[2:])
    report = noise({train_set: [(1, 0, -3.0, 0.5)], held_out: [(1, 0, -4.0, math.nan)]}, partial=True)
    report.write(tmp_path / "noise.jsonl")
    assert [one["dataset"] for one in read(tmp_path / "noise.jsonl")] == [held_out, train_set]
    assert all(one["partial"] for one in read(tmp_path / "noise.jsonl"))
    pairs = read_preferences(str(tmp_path / "noise.jsonl")).pairs
    assert [(one.chosen, one.rejected, one.label, one.margin) for one in pairs] == [
        ("é", "d", 0.8, None),
        ("a", "b", 1.0, 2.5),
    ]


def test_a_set_that_lost_rows_meanwhile_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = write(tmp_path / "train.jsonl", ROWS[:1])
    noise({name: [(1, 0, -3.0, 0.5), (1, 1, -5.0, 0.5), (2, 0, -9.0, 0.5)]}).write(tmp_path / "noise.jsonl")
    assert len(read(tmp_path / "noise.jsonl")) == 1
    assert "2 pairs are no longer where they were" in caplog.text


def test_only_its_owner_reads_the_report(tmp_path: Path) -> None:
    name = write(tmp_path / "train.jsonl", ROWS)
    noise({name: [(1, 0, -3.0, 0.5)]}).write(tmp_path / "noise.jsonl")
    assert (tmp_path / "noise.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("place", ["train.jsonl", "new/../train.jsonl", "link.jsonl", "sets/a.jsonl", "out/n.jsonl"])
def test_a_report_never_takes_the_place_of_what_a_run_needs(tmp_path: Path, place: str) -> None:
    name = write(tmp_path / "train.jsonl", ROWS)
    (tmp_path / "link.jsonl").symlink_to(name)
    (tmp_path / "sets").mkdir()
    with pytest.raises(DataError, match=r"--label_noise_file .*: name another"):
        check_place(tmp_path / place, [name, f"{tmp_path / 'sets'}:train"], [tmp_path / "out"])


def test_a_report_that_cannot_be_written_is_noticed_before_training(tmp_path: Path) -> None:
    write(tmp_path / "file", ROWS)
    with pytest.raises(OSError, match=r"--label_noise_file .* cannot be written"):
        check_place(tmp_path / "file" / "new" / "noise.jsonl", [], [])
    check_place(tmp_path / "new" / "noise.jsonl", ["owner/name"], [])
    assert list((tmp_path / "new").iterdir()) == []


def test_training_data_survives_a_report_of_its_name(tmp_path: Path) -> None:
    args = planted(tmp_path, 4, set(), label_noise_file=str(tmp_path / "pairs.jsonl"))
    before = (tmp_path / "pairs.jsonl").read_bytes()
    args.model_name_or_path = str(tmp_path / "none")  # not loaded
    with pytest.raises(DataError, match="would take the place of what is read"):
        train(args)
    assert (tmp_path / "pairs.jsonl").read_bytes() == before


def planted(tmp_path: Path, n: int, wrong: set[int], **flags: Any) -> RewardTrainingArguments:
    """Of two responses the polite one is the better one, and the label says so except at the lines `wrong`."""
    rows = []
    for line in range(1, n + 1):
        sides = [f"Gladly: number {line}.", f"Go away {line}!"]
        chosen, rejected = reversed(sides) if line in wrong else sides
        rows.append({"prompt": f"Which one, {line}?", "chosen": chosen, "rejected": rejected})
    base = tmp_path / "base"
    if not base.exists():
        tiny.tiny_base(base, "llama")
    given = {
        "model_name_or_path": str(base),
        "dataset_name": write(tmp_path / "pairs.jsonl", rows),
        "output_dir": str(tmp_path / "out"),
        "label_noise_file": str(tmp_path / "noise.jsonl"),
        "learning_rate": 3e-3,
        "per_device_train_batch_size": 4,
        "eval_fraction": 0.2,
        "disable_tqdm": True,
    }
    return RewardTrainingArguments(**given | flags)


def test_most_of_the_labels_that_were_turned_round_are_found_and_few_others(tmp_path: Path) -> None:
    wrong = set(random.Random(0).sample(range(1, 501), 50))
    manifest = train(planted(tmp_path, 500, wrong))
    found = read(tmp_path / "noise.jsonl")
    lines = {one["line"] for one in found}
    assert len(lines & wrong) > 0.6 * len(wrong)
    assert len(lines - wrong) < 0.1 * len(lines)
    assert [one["probability"] for one in found] == sorted(one["probability"] for one in found)
    assert {one["epoch"] is None for one in found} == {True, False}
    record = manifest.training["label_noise"]
    assert record == {
        "threshold": 0.2,
        "disagreements": len(found),
        "judged_training_pairs": manifest.training["pairs"],
        "partial": False,
    }
    assert not any("Gladly" in str(value) for value in manifest.training.values())


def test_after_training_was_resumed_the_report_says_that_it_is_partial(tmp_path: Path) -> None:
    train(planted(tmp_path, 80, {3, 4, 5}, save_strategy="steps", save_steps=12))
    resumed = train(
        planted(tmp_path, 80, {3, 4, 5}, resume_from_checkpoint=str(tmp_path / "out.trainer/checkpoint-12"))
    )
    record = resumed.training["label_noise"]
    assert record["partial"]
    assert record["judged_training_pairs"] == 64 - 12 * 4
    assert all(one["partial"] for one in read(tmp_path / "noise.jsonl"))
