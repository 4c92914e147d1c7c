"""A checkpoint evaluated through its service has the figures that it has in this process.

`PAIRS=1000 make test ARGS="-k evaluate_url --no-cov"` tries it on more pairs than the tests usually do.
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiny
from serving import listening

from reward_model.checkpoint import Checkpoint, load
from reward_model.records import Message
from reward_model.rendering import Renderer
from reward_model.template import ENCODER_TEMPLATE
from service.client import Client
from service.scorer import ModelInfo, ModelScorer
from service.stub import StubScorer
from training.data import RowReport
from training.evaluate import main
from training.pair_scorer import CheckpointScorer, EvaluationFailed, ScoredPair
from training.pairs import PreferencePair
from training.pairwise import evaluate, evaluate_with
from training.service_scorer import PAIRS as PAIRS_OF_A_REQUEST
from training.service_scorer import ServiceScorer, service_at

PAIRS = int(os.environ.get("PAIRS", "60"))
MAX_LENGTH = 100
#: Tokens are bytes: longer than any limit here.
TOO_LONG = "never " * 100


def pair(line: int, prompt: str, chosen: str, rejected: str) -> PreferencePair:
    return PreferencePair((Message("user", prompt),), chosen, rejected, None, "ab"[line % 2], None, line)


def made_up_pairs(n: int = PAIRS) -> list[PreferencePair]:
    """Every tenth has a prompt that must be cut, every tenth a response that does not fit."""
    pairs = []
    for i in range(n):
        prompt = f"question {i // 3} " + "x" * (200 if i % 10 == 3 else i % 7)
        chosen = TOO_LONG if i % 10 == 7 else f"answer {i} " + "good " * (i % 5)
        pairs.append(pair(i + 1, prompt, chosen, f"reply {i} " + "bad " * ((i + 2) % 6)))
    return pairs


@pytest.fixture(scope="module")
def directory(checkpoint_of: Callable[[str], Path]) -> Path:
    return checkpoint_of("bert")


@pytest.fixture(scope="module")
def loaded(directory: Path) -> Checkpoint:
    return load(directory, device="cpu", dtype="float32", max_length=MAX_LENGTH)


@pytest.fixture(scope="module")
def url(loaded: Checkpoint) -> Iterator[str]:
    with listening(ModelScorer(loaded)) as (url, _), Client(url) as client:
        client.wait_until_ready(20)
        yield url


def write(path: Path, pairs: list[PreferencePair]) -> str:
    def row(one: PreferencePair) -> dict[str, Any]:
        turns = [{"role": message.role, "content": message.content} for message in one.prompt]
        sides = {name: [{"role": "assistant", "content": getattr(one, name)}] for name in ("chosen", "rejected")}
        return {"prompt": turns, **sides, "source": one.source} if turns else {**sides, "source": one.source}

    path.write_text("".join(json.dumps(row(one)) + "\n" for one in pairs))
    return str(path)


def rounded(document: Any) -> Any:
    """Numbers to five decimals: those of a score may depend on its batch in the last bits.

    By which two that are nearly equal may change places, so that a correlation of ranks has four.
    """
    if isinstance(document, dict):
        ranks = {name: pytest.approx(value, abs=1e-4) for name, value in document.items() if name == "spearman"}
        return {name: rounded(value) for name, value in document.items()} | ranks
    if isinstance(document, list | tuple):
        return [rounded(value) for value in document]
    return pytest.approx(document, abs=1e-5) if isinstance(document, float) else document


def test_the_command_writes_the_same_document_for_a_service(url: str, directory: Path, tmp_path: Path) -> None:
    alone = [PreferencePair((), f"one {i}", TOO_LONG if i == 1 else "other", None, "a", None, i) for i in range(9)]
    dataset = write(tmp_path / "pairs.jsonl", [*alone[:4], *made_up_pairs(), *alone[4:]])
    here, there = tmp_path / "here.json", tmp_path / "there.json"
    common = ["--dataset_name", dataset, "--output_file"]
    flags = ["--model_name_or_path", str(directory), "--dtype", "float32", "--device", "cpu", "--max_length", "100"]
    assert main([*flags, *common, str(here)]) == 0
    assert main(["--url", url, *common, str(there)]) == 0
    expected, served = json.loads(here.read_text()), json.loads(there.read_text())
    assert served == rounded(expected)
    assert (served["n"], served["accuracy"]) == (PAIRS + 9, expected["accuracy"])
    assert served["not_scored_rows"]["too_long"]["count"] == served["not_scored"] == PAIRS // 10 + 1
    assert served["truncated"] == PAIRS // 10
    assert (served["max_length"], served["temperature"], served["calibrated"]) == (100, 1.5, True)


def scores_of(scorer: CheckpointScorer | ServiceScorer, pairs: list[PreferencePair]) -> dict[int, ScoredPair]:
    done = [0]
    scores = scorer.score(dict(enumerate(pairs)), RowReport(rows=len(pairs)), done.append)
    assert sum(done) == len(pairs)
    return scores


def test_every_score_is_that_of_the_checkpoint_in_this_process(loaded: Checkpoint, url: str) -> None:
    pairs = made_up_pairs()
    with service_at(url) as service:
        served = scores_of(service, pairs)
    expected = scores_of(CheckpointScorer(loaded), pairs)
    assert list(served) == list(expected)
    for i, one in expected.items():
        assert (served[i].pair, served[i].truncated) == (one.pair, one.truncated)
        assert (served[i].chosen, served[i].rejected) == pytest.approx((one.chosen, one.rejected), abs=1e-5)


def test_pairs_that_do_not_fit_cost_no_more_than_a_request_each(url: str) -> None:
    def requests() -> int:
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        counted = [one for one in lines if one.startswith('reward_request_duration_seconds_count{route="/compare"')]
        return sum(int(float(one.split()[-1])) for one in counted)

    before = requests()
    pairs = [pair(i, "q", TOO_LONG if i % 2 else "short", f"reply {i}") for i in range(100)]
    with service_at(url) as service:
        assert evaluate_with(service, pairs).not_scored.counts == {"too_long": 50}
    assert requests() - before == 50 + math.ceil(100 / PAIRS_OF_A_REQUEST)


def test_a_pair_that_the_template_refuses_is_the_same_in_both(loaded: Checkpoint) -> None:
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    tokenizer = tiny.tiny_tokenizer("encoder", chat_template=refusing + ENCODER_TEMPLATE)
    renderer = Renderer(tokenizer, rendering="chat_template", max_length=MAX_LENGTH, vocab_size=len(tokenizer))
    checkpoint = replace(loaded, renderer=renderer)
    refused = PreferencePair((Message("system", "s"), Message("user", "q")), "a", "b", None, None, None, 2)
    pairs = [pair(1, "q", "short", "other"), refused]
    with listening(ModelScorer(checkpoint)) as (url, _), service_at(url) as service:
        served = evaluate_with(service, pairs)
    assert served.not_scored.counts == {"not_renderable": 1}
    assert served.not_scored == evaluate(checkpoint, pairs).not_scored


def test_a_key_is_read_from_a_file_as_the_service_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keys").write_text("# of the trainer\n\nright\nother\n")
    (tmp_path / "wrong").write_text("wrong\n")
    (tmp_path / "none").write_text("# nothing yet\n")
    dataset = write(tmp_path / "pairs.jsonl", [pair(i, "q", f"yes {i}", "no") for i in range(3)])
    with listening(StubScorer(), api_key_file=tmp_path / "keys") as (url, _):
        command = ["--url", url, "--dataset_name", dataset, "--api_key_file"]
        assert main([*command, str(tmp_path / "keys")]) == 0
        for name, said in (("wrong", "401 Unauthorized"), ("none", "holds no API key"), ("absent", "No such file")):
            capsys.readouterr()
            assert main([*command, str(tmp_path / name)]) == 1
            assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "one of the arguments --model_name_or_path --url is required"),
        (["--url", "http://x", "--model_name_or_path", "y"], "not allowed with"),
        (["--url", "http://x", "--max_length", "8"], "--max_length changes nothing with --url"),
        (["--url", "http://x", "--dtype", "float32"], "--dtype changes nothing with --url"),
        (["--model_name_or_path", "y", "--api_key_file", "z"], "--api_key_file changes nothing without --url"),
    ],
)
def test_flags_that_would_change_nothing_are_errors(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*flags, "--dataset_name", "absent.jsonl"])
    assert said in capsys.readouterr().err


def test_what_is_no_address_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = write(tmp_path / "pairs.jsonl", [pair(1, "q", "yes", "no")])
    assert main(["--url", "127.0.0.1:8000", "--dataset_name", dataset]) == 1
    assert "must begin with http://" in capsys.readouterr().err


def test_a_score_that_is_not_finite_is_an_error_that_names_the_line() -> None:
    def fault(batch: Any, scores: Any) -> Any:
        return [replace(s, value=math.nan) if "odd" in one.text else s for one, s in zip(batch, scores, strict=True)]

    pairs = [pair(i, "q", "odd" if i == 5 else f"yes {i}", "no") for i in range(10)]
    failing = pytest.raises(EvaluationFailed, match="pair at line 5: 500")
    with listening(StubScorer(fault=fault)) as (url, _), service_at(url) as service, failing:
        evaluate_with(service, pairs)


def test_a_service_that_changes_its_model_is_not_evaluated_further() -> None:
    class Changing(StubScorer):
        changed = False

        @property
        def info(self) -> ModelInfo:
            return replace(super().info, fingerprint="sha256:other") if self.changed else super().info

    scorer = Changing()
    with listening(scorer) as (url, _), service_at(url) as service:
        scorer.changed = True
        with pytest.raises(EvaluationFailed, match=r"changed its model from sha256:.* to sha256:other"):
            evaluate_with(service, [pair(1, "q", "yes", "no")])
