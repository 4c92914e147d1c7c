"""A checkpoint's accuracy is that of the scores it is served with, each pair counted once."""

import io
import json
import math
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from reward_model.checkpoint import Checkpoint, load
from reward_model.records import Message
from reward_model.rendering import Renderer
from reward_model.template import ENCODER_TEMPLATE
from training.data import read_preferences
from training.evaluate import REFUSED, main
from training.fingerprint import fingerprint
from training.pair_scorer import EvaluationFailed
from training.pairs import PreferencePair
from training.pairwise import evaluate

MAX_LENGTH = 100
FITS = "short"
#: Tokens are bytes: longer than any max_length here.
TOO_LONG = "never " * 100


def pair(
    line: int, prompt: str, chosen: str, rejected: str, source: str = "a", category: str | None = None
) -> PreferencePair:
    return PreferencePair((Message("user", prompt),), chosen, rejected, None, source, category, line)


def made_up_pairs(n: int = 30) -> list[PreferencePair]:
    return [
        pair(
            i + 1,
            f"question {i // 3} " + "x" * (i % 7),
            f"answer {i} " + "good " * (i % 5),
            f"reply {i} " + "bad " * ((i + 2) % 6),
            source="ab"[i % 2],
            category="even" if i % 2 == 0 else None,
        )
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def bert(checkpoint_of: Callable[[str], Path]) -> Path:
    return checkpoint_of("bert")


@pytest.fixture(scope="module")
def loaded(bert: Path) -> Checkpoint:
    return load(bert, device="cpu", dtype="float32", max_length=MAX_LENGTH)


def scores_one_by_one(checkpoint: Checkpoint, one: PreferencePair) -> tuple[float, float]:
    """What the service would answer to the two inputs, each sent alone."""
    rendered = checkpoint.renderer.render_group(one.prompt, [one.chosen, one.rejected], truncate=True)
    chosen, rejected = (checkpoint.model.score([r])[0].value for r in rendered)
    return chosen, rejected


def test_accuracy_is_that_of_scores_taken_one_by_one(loaded: Checkpoint) -> None:
    pairs = made_up_pairs()
    scores = [scores_one_by_one(loaded, one) for one in pairs]
    result = evaluate(loaded, pairs, batch_tokens=150)
    wins = [chosen > rejected for chosen, rejected in scores]
    assert result.overall.n == 30
    assert result.overall.accuracy == pytest.approx(sum(wins) / 30)
    assert 0 < sum(wins) < 30
    assert result.by_source["a"].accuracy == pytest.approx(sum(wins[::2]) / 15)
    assert list(result.by_source) == ["a", "b"]
    assert {name: one.n for name, one in result.by_category.items()} == {"even": 15}
    assert result.reward.mean == pytest.approx(sum(map(sum, scores)) / 60, abs=1e-5)
    nll = sum(math.log1p(math.exp(-(chosen - rejected) / 1.5)) for chosen, rejected in scores) / 30
    assert result.provenance.temperature == 1.5
    assert result.probabilities.nll == pytest.approx(nll, abs=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 64, 100_000])
def test_batches_do_not_change_the_result(loaded: Checkpoint, batch_tokens: int) -> None:
    pairs = made_up_pairs()
    usual, other = evaluate(loaded, pairs), evaluate(loaded, pairs, batch_tokens=batch_tokens)
    assert other.overall == usual.overall
    assert other.reward.mean == pytest.approx(usual.reward.mean, abs=1e-5)


def test_swapping_the_sides_mirrors_the_accuracy(loaded: Checkpoint) -> None:
    pairs = made_up_pairs()
    swapped = [pair(one.line, one.prompt[0].content, one.rejected, one.chosen) for one in pairs]
    there, back = evaluate(loaded, pairs), evaluate(loaded, swapped)
    assert there.overall.accuracy + back.overall.accuracy == pytest.approx(1)
    assert there.longer_wins + back.longer_wins == pytest.approx(1)


def test_response_that_does_not_fit_counts_half_and_is_reported(loaded: Checkpoint) -> None:
    scored = [pair(1, "q", FITS, "other"), pair(2, "q", "other", FITS)]
    unfit = [pair(3, "r", TOO_LONG, FITS), pair(4, "r", FITS, TOO_LONG)]
    result = evaluate(loaded, [*scored, *unfit])
    assert result.overall.n == 4
    assert result.overall.accuracy == 0.5
    assert result.not_scored.counts == {"too_long": 2}
    assert result.not_scored.reasons["too_long"].lines == [3, 4]
    assert result.reward.n == 4


def test_pair_that_the_template_refuses_counts_half_and_is_reported(loaded: Checkpoint) -> None:
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    tokenizer = tiny.tiny_tokenizer("encoder", chat_template=refusing + ENCODER_TEMPLATE)
    renderer = Renderer(tokenizer, rendering="chat_template", max_length=MAX_LENGTH, vocab_size=len(tokenizer))
    refused = PreferencePair((Message("system", "s"), Message("user", "q")), "a", "b", None, None, None, 2)
    result = evaluate(replace(loaded, renderer=renderer), [pair(1, "q", FITS, "other"), refused])
    assert result.overall.accuracy in {0.25, 0.75}
    assert result.not_scored.counts == {"not_renderable": 1}
    assert "no system turn" in result.table()


def test_long_prompt_is_cut_and_counted_but_the_pair_is_scored(loaded: Checkpoint) -> None:
    result = evaluate(loaded, [pair(1, TOO_LONG, FITS, "other"), pair(2, "q", FITS, "other")])
    assert result.truncated == 1
    assert result.not_scored.rejected == 0


def test_probabilities_and_lengths_are_those_of_scored_pairs_only(loaded: Checkpoint) -> None:
    pairs = made_up_pairs()
    alone, joined = evaluate(loaded, pairs), evaluate(loaded, [*pairs, pair(99, "q", TOO_LONG, FITS)])
    assert joined.probabilities == alone.probabilities
    assert joined.length_correlation == alone.length_correlation
    assert joined.reward == alone.reward
    assert joined.longer_wins == pytest.approx((30 * alone.longer_wins + 1) / 31)


def test_set_of_which_nothing_can_be_scored_is_an_error(loaded: Checkpoint) -> None:
    with pytest.raises(EvaluationFailed, match=r"(?s)not one pair.*too_long"):
        evaluate(loaded, [pair(1, "q", TOO_LONG, FITS)])
    with pytest.raises(EvaluationFailed, match="no pairs"):
        evaluate(loaded, [])


def test_score_that_is_not_finite_is_an_error_that_names_the_line(bert: Path) -> None:
    broken = load(bert, device="cpu", dtype="float32")
    with torch.no_grad():
        broken.model.get_parameter("model.classifier.bias").fill_(math.nan)
    with pytest.raises(EvaluationFailed, match="the pair at line 5 scores nan"):
        evaluate(broken, [pair(5, "q", FITS, "other")])


def test_pairs_that_have_to_be_scored_in_several_windows_keep_their_scores(
    loaded: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = evaluate(loaded, made_up_pairs())
    monkeypatch.setattr("training.pairwise._WINDOW", 7)
    windowed = evaluate(loaded, made_up_pairs())
    assert (windowed.overall, windowed.by_source) == (usual.overall, usual.by_source)
    assert windowed.reward.deciles == pytest.approx(usual.reward.deciles, abs=1e-5)
    assert windowed.length_correlation.pearson == pytest.approx(usual.length_correlation.pearson, abs=1e-5)


def write(path: Path, pairs: list[PreferencePair]) -> str:
    rows = [
        {"prompt": p.prompt[0].content, "chosen": p.chosen, "rejected": p.rejected, "source": p.source} for p in pairs
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"chosen": "same", "rejected": "same"}]))
    return str(path)


def run(bert: Path, dataset: str, *flags: str) -> int:
    required = ("--model_name_or_path", str(bert), "--dataset_name", dataset)
    return main([*required, "--device", "cpu", "--dtype", "float32", *flags])


def test_command_writes_the_document_and_shows_the_table(
    bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = write(tmp_path / "pairs.jsonl", made_up_pairs())
    output = tmp_path / "results" / "metrics.json"
    assert run(bert, dataset, "--output_file", str(output), "--max_length", "90", "--batch_tokens", "500") == 0
    document: dict[str, Any] = json.loads(output.read_text())
    low, high = document["accuracy_interval"]
    assert low < document["accuracy"] < high
    assert (document["n"], document["prompts"], document["max_length"]) == (30, 30, 90)
    assert document["dataset_fingerprint"] == fingerprint(read_preferences(dataset).pairs)
    assert document["model_fingerprint"] == load(bert, max_length=90).fingerprint
    assert (document["dtype"], document["calibrated"], document["not_scored"]) == ("float32", True, 0)
    assert document["rejected_rows"]["reasons"]["identical"]["first_lines"] == [31]
    shown = capsys.readouterr().out
    assert f"accuracy        {document['accuracy']:6.1%}" in shown
    assert "rows: 31, not used: 1" in shown


@pytest.mark.parametrize(
    "flags",
    [
        ["--batch_token", "5"],
        ["--unknown", "1"],
        ["--batch_tokens", "0"],
        ["--dtype", "x"],
        ["--baseline", "b", "--benchmark", "rm_bench"],
        ["--output_file", "."],
    ],
)
def test_unknown_and_malformed_flags_are_errors(
    bert: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(bert, "absent.jsonl", *flags)
    assert caught.value.code == 2
    assert flags[0] in capsys.readouterr().err


def test_refused_checkpoint_ends_with_its_own_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = write(tmp_path / "pairs.jsonl", made_up_pairs())
    assert run(tmp_path, dataset) == REFUSED
    assert "no *.safetensors weights" in capsys.readouterr().err


def test_a_result_that_cannot_be_written_is_still_shown(
    bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = write(tmp_path / "pairs.jsonl", made_up_pairs())
    (tmp_path / "file").write_text("")
    assert run(bert, dataset, "--output_file", str(tmp_path / "file" / "metrics.json"), "--max_length", "90") == 1
    shown = capsys.readouterr()
    assert "accuracy " in shown.out
    assert "file" in shown.err


def test_a_result_that_nobody_reads_is_still_written(bert: Path, tmp_path: Path) -> None:
    dataset, output = write(tmp_path / "pairs.jsonl", made_up_pairs()), tmp_path / "metrics.json"

    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    with redirect_stdout(Closed()):
        assert run(bert, dataset, "--output_file", str(output), "--max_length", "90") == 1
    assert json.loads(output.read_text())["n"] == 30


def test_a_baseline_is_compared_pair_by_pair(
    bert: Path, checkpoint_of: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, output = write(tmp_path / "pairs.jsonl", made_up_pairs()), tmp_path / "metrics.json"
    other = checkpoint_of("gpt2")
    assert run(bert, dataset, "--baseline", str(other), "--output_file", str(output), "--max_length", "90") == 0
    document = json.loads(output.read_text())
    assert run(other, dataset, "--output_file", str(output), "--max_length", "90") == 0
    baseline = json.loads(output.read_text())
    against = document["baseline"]
    assert against["accuracy"] == baseline["accuracy"]
    assert against["model_fingerprint"] == baseline["model_fingerprint"]
    assert against["difference"] == pytest.approx(document["accuracy"] - baseline["accuracy"])
    assert against["better"] - against["worse"] == round(30 * against["difference"])
    assert "difference" in capsys.readouterr().out


def test_a_baseline_that_is_refused_is_named(bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = write(tmp_path / "pairs.jsonl", made_up_pairs())
    assert run(bert, dataset, "--baseline", str(tmp_path), "--max_length", "90") == REFUSED
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"{tmp_path}: ")


def test_unusable_data_set_ends_in_one_line(bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(bert, "absent.jsonl") == 1
    assert capsys.readouterr().err == "absent.jsonl: there is no such file\n"
