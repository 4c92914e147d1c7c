"""Training leaves a report and a card beside its checkpoint; the command makes them anew, or on other pairs."""

import json
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import runs
import tiny

from reward_model import checkpoint
from training.average import main as average
from training.calibrate import main as calibrate
from training.data import read_preferences
from training.pairwise import evaluate
from training.report.__main__ import main
from training.report.log import read_log
from training.report.verdicts import read_verdicts
from training.train import main as train

#: In prompts and responses of all data.
MARKER = "the zebra sings at noon"
WRITTEN = ("report.html", "README.md", "training_log.json", "held_out.json")


def marked(path: Path, numbers: range) -> Path:
    """Pairs in which every text has the marker."""
    runs.write_pairs(path, numbers)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for i, row in enumerate(rows):
        row |= {side: f"{row[side]} <i>{MARKER}</i>" for side in ("prompt", "chosen", "rejected")}
        row |= {"source": f"s{i % 3}", "category": f"c{i % 2}"}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a run's `out`, whose data are in `marked.jsonl` and `others.jsonl`."""
    directory = tmp_path_factory.mktemp("report")
    names = {"dataset_name": marked(directory / "marked.jsonl", range(40))}
    names["eval_dataset_name"] = marked(directory / "others.jsonl", range(100, 130))
    assert train(runs.argv(directory, "out", "bert", **names, eval_strategy="steps", eval_steps=5)) == 0
    return directory


def report(directory: Path, *flags: object) -> int:
    return main(
        ["--model_name_or_path", str(directory / "out"), "--device", "cpu", "--dtype", "float32", *map(str, flags)]
    )


def test_training_writes_it_by_itself_and_without_a_word_of_its_data(trained: Path) -> None:
    for name in WRITTEN:
        text = (trained / "out" / name).read_text()
        assert MARKER not in text
        assert "zebra" not in text
    assert "Accuracy by category" in (trained / "out" / "report.html").read_text()
    assert not (trained / "out.trainer").exists()


def test_a_checkpoint_does_not_mind_what_lies_beside_it(trained: Path) -> None:
    assert checkpoint.load(trained / "out", device="cpu", dtype="float32").manifest is not None


def test_the_course_of_training_is_kept(trained: Path) -> None:
    log, found = read_log(trained / "out" / "training_log.json"), read_verdicts(trained / "out" / "held_out.json")
    assert log is not None
    assert found is not None
    assert [step for step, _ in log.series("loss")] == list(range(1, 11))
    assert [step for step, _ in log.series("eval_loss")] == [5, 10]
    assert log.seconds
    assert log.base_model is None
    manifest = json.loads((trained / "out" / "reward_model.json").read_text())
    assert found.accuracy.accuracy == manifest["training"]["metrics"]["accuracy"]
    assert found.quality(1.0).ece == manifest["calibration"]["metrics"]["ece_before"]
    assert found.dataset.fingerprint == manifest["training"]["eval_dataset_fingerprint"]
    assert {name: one.n for name, one in found.by(lambda v: v.source).items()} == {"s0": 10, "s1": 10, "s2": 10}


def test_the_command_gives_the_same_bytes_as_training(trained: Path) -> None:
    before = {name: (trained / "out" / name).read_bytes() for name in WRITTEN}
    (trained / "out" / "report.html").unlink()
    (trained / "out" / "README.md").unlink()
    assert report(trained) == 0
    assert {name: (trained / "out" / name).read_bytes() for name in WRITTEN} == before


def test_other_pairs_are_counted_as_evaluation_counts_them(trained: Path) -> None:
    pairs = trained / "pairs.jsonl"
    rows = [json.loads(line) for line in (trained / "marked.jsonl").read_text().splitlines()]
    rows[3]["chosen"] = "never " * 200  # does not fit
    pairs.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"chosen": "a", "rejected": "a"}]))
    assert report(trained, "--dataset_name", pairs) == 0
    text = (trained / "out" / "report.html").read_text()
    result = evaluate(
        checkpoint.load(trained / "out", device="cpu", dtype="float32"), read_preferences(str(pairs)).pairs
    )
    low, high = result.overall.accuracy_interval
    for part in (
        f"{100 * result.overall.accuracy:.1f}\N{NO-BREAK SPACE}%", f"{100 * low:.1f} to {100 * high:.1f}",
        "could not be scored, and count 0.5: 1.", "that could not be used: 1.",
        f"{result.probabilities.ece:.3f}", f"{100 * result.longer_wins:.1f}\N{NO-BREAK SPACE}%",
    ):  # fmt: skip
        assert part in text
    for name in WRITTEN:
        assert "zebra" not in (trained / "out" / name).read_text()


def test_texts_are_shown_to_who_asks_and_escaped(trained: Path) -> None:
    path = trained / "out" / "report.html"
    data = trained / "both_ways.jsonl"  # whatever the model thinks, half of these are against it
    rows = [json.loads(line) for line in (trained / "marked.jsonl").read_text().splitlines()]
    rows += [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert report(trained, "--dataset_name", data, "--report_examples", 3) == 0
    text = path.read_text()
    assert text.count("<article") == 3
    assert text.count(f"&lt;i&gt;{MARKER}&lt;/i&gt;") == 3 * 3
    assert f"<i>{MARKER}" not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert MARKER not in (trained / "out" / "README.md").read_text()
    assert report(trained) == 0
    assert MARKER not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_card_that_was_edited_is_left_as_it_is(trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = trained / "out" / "README.md"
    written = path.read_text()
    path.write_text(written.replace("tags:", "license: mit\ntags:"))
    assert report(trained) == 0
    assert "license: mit" in path.read_text()
    assert "was edited and is left as it is" in caplog.text
    path.unlink()
    assert report(trained) == 0
    assert path.read_text() == written


def test_a_foreign_model_is_reported_on_and_keeps_its_own_card(tmp_path: Path) -> None:
    tiny.tiny_base(tmp_path / "out", "bert")
    (tmp_path / "out" / "README.md").write_text("# Theirs\n")
    assert report(tmp_path, "--dataset_name", marked(tmp_path / "pairs.jsonl", range(12)), "--max_pairs", 9) == 0
    text = (tmp_path / "out" / "report.html").read_text()
    assert "Measured on 9 pairs" in text
    assert "The checkpoint does not say how it was made." in text
    assert (tmp_path / "out" / "README.md").read_text() == "# Theirs\n"


def test_scores_from_before_another_calibration_are_not_shown_as_its_own(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "out", tmp_path / "out")
    runs.write_pairs(tmp_path / "new.jsonl", range(200, 240))
    flags = ["--model_name_or_path", tmp_path / "out", "--dataset_name", tmp_path / "new.jsonl", "--device", "cpu"]
    assert calibrate([str(flag) for flag in flags]) == 0
    assert report(tmp_path) == 0
    assert "No scores of held-out pairs are on record" in (tmp_path / "out" / "report.html").read_text()


def test_without_held_out_pairs_nothing_is_measured(tmp_path: Path) -> None:
    flags: dict[str, Any] = {"eval_fraction": 0, "eval_dataset_name": ""}
    assert train(runs.argv(tmp_path, "out", "bert", pairs=8, **flags)) == 0
    assert not (tmp_path / "out" / "held_out.json").exists()
    assert "No scores of held-out pairs are on record" in (tmp_path / "out" / "report.html").read_text()
    assert "model-index" not in (tmp_path / "out" / "README.md").read_text()


def test_a_report_that_cannot_be_written_does_not_cost_the_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.report.writer.REPORT_FILE", "no/such/directory.html")
    assert train(runs.argv(tmp_path, "out", "bert", pairs=8)) == 0
    assert "the checkpoint is written, its report is not" in caplog.text
    assert checkpoint.load(tmp_path / "out", device="cpu", dtype="float32").manifest is not None


def test_rankings_give_the_best_of_n(trained: Path) -> None:
    data = trained / "ranked.jsonl"
    rows = [
        {"prompt": f"Which {i}?", "responses": ["Gladly: red.", "Well, red.", "Go away!"], "ranks": [1, 2, 3]}
        for i in range(12)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert report(trained, "--dataset_name", data) == 0
    text = (trained / "out" / "report.html").read_text()
    assert "Over 12 rankings of 3 responses or more" in text
    assert report(trained) == 0


def test_an_average_has_a_report_too(tmp_path: Path) -> None:
    for seed, name in enumerate(("a", "b")):
        assert train(runs.argv(tmp_path, name, "bert", pairs=8, seed=seed)) == 0
    names = [str(tmp_path / name) for name in ("a", "b")]
    flags = ["--dataset_name", str(tmp_path / "held_out.jsonl"), "--output_dir", str(tmp_path / "mean")]
    assert average(["--model_name_or_path", *names, *flags]) == 0
    text = (tmp_path / "mean" / "report.html").read_text()
    assert text.count("averaged from") == 2
    assert "The command line is not on record." in text
    assert "no log of a training run" in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--report_examples", "3"], "--report_examples needs --dataset_name"),
        (["--max_pairs", "3"], "--max_pairs needs --dataset_name"),
        (["--report_examples", "-1"], "--report_examples must be 0 or more"),
        (["--dataset_name", "x", "--max_pairs", "0"], "--max_pairs must be positive"),
        (["--report_example", "1"], "unrecognized arguments"),
    ],
)
def test_flags_without_a_meaning_are_errors(
    tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(SystemExit) as caught:
        report(tmp_path, *flags)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        report(tmp_path)
    assert "is not a directory" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    assert report(tmp_path) == 3
    assert "name pairs to measure it on" in capsys.readouterr().err
    assert report(tmp_path, "--dataset_name", "absent.jsonl") == 1
    assert capsys.readouterr().err == "absent.jsonl: there is no such file\n"
