"""This service as a contestant: started, asked, stopped; and how the answers of the others are read."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.contestants import contestants, running
from benchmarks.texts import Sample
from benchmarks.weights import Weights
from reward_model import checkpoint
from reward_model.records import Conversation, as_prompt

SAMPLE = Sample("Explain gravity.", "Gravity pulls masses together.")


def test_this_service_is_started_asked_and_ended(tmp_path: Path, checkpoint_of: Callable[[str], Path]) -> None:
    directory = checkpoint_of("bert")
    with running(contestants()[0], Weights(directory, directory, directory), tmp_path, tmp_path / "log") as server:
        score = server.ask(SAMPLE)
        assert server.seconds_to_ready > 0
        assert server.resident_megabytes() > 50
    assert server.process.poll() is not None
    loaded = checkpoint.load(directory)
    rendered = loaded.renderer.render(Conversation(as_prompt(SAMPLE.prompt), SAMPLE.response))
    assert score == pytest.approx(loaded.model.score([rendered])[0].value, abs=1e-4)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    with (
        pytest.raises(RuntimeError, match=r"this service did not become ready[\s\S]*nothing"),
        running(contestants()[0], Weights(nothing, nothing, nothing), tmp_path, tmp_path / "log"),
    ):
        pytest.fail("it started")


def test_answers_are_read_in_the_form_of_each() -> None:
    p = 1 / (1 + math.exp(-0.7))
    answers = {
        "this": {"scores": [0.7]},
        "tutorial": {"score": 0.7},
        "CrossEncoder": {"score": 0.7},
        "serve_rm": {"rewards": [0.7]},
        "Infinity": {"data": [[{"label": "zero", "score": 1 - p}, {"label": "reward", "score": p}]]},
    }
    for one in contestants():
        assert one.score(answers[one.name.split()[0]]) == pytest.approx(0.7)
        assert SAMPLE.response.encode() in one.request(SAMPLE)
