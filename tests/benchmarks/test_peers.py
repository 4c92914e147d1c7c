"""A checkpoint of ours scores the same in other people's code, run in environments of their own.

`python -m benchmarks.peers install trl sentence-transformers` makes them; the suite does not ask for gigabytes.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers.__main__ import ENVIRONMENTS, HERE
from reward_model import checkpoint
from reward_model.records import Conversation, Message, as_prompt

PROMPTS = [
    [{"role": "user", "content": "Explain gravity."}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is the sky blue?"}],
    [
        {"role": "user", "content": "Name a prime."},
        {"role": "assistant", "content": "Seven."},
        {"role": "user", "content": "And another?"},
    ],
]
PAIRS = [["Explain gravity.", "Masses attract."], ["Why?", "Because."], ["", "No question."], ["Ünïcode 你好", "Yes ✓"]]


def run_peer(environment: str, script: str, tmp_path: Path, **given: Any) -> list[dict[str, Any]]:
    """Runs a script with its inputs as files; returns the rows it writes."""
    python = ENVIRONMENTS / environment / "bin" / "python"
    if not python.exists():
        pytest.skip(f"python -m benchmarks.peers install {environment} has not been run")
    output = tmp_path / "output.json"
    command = [str(python), str(HERE / script), "--output", str(output)]
    for name, value in given.items():
        path = value
        if not isinstance(value, Path):
            path = tmp_path / f"{name}.json"
            path.write_text(json.dumps(value), encoding="utf-8")
        command += [f"--{name}", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    rows: list[dict[str, Any]] = json.loads(output.read_text(encoding="utf-8"))
    return rows


@pytest.mark.parametrize("architecture", ["bert", "llama", "qwen3"])
def test_grpo_rewards_completions_as_the_service_scores_them(
    architecture: str, checkpoint_of: Callable[[str], Path], tmp_path: Path
) -> None:
    directory = checkpoint_of(architecture)
    rows = run_peer("trl", "grpo_rewards.py", tmp_path, checkpoint=directory, prompts=PROMPTS)
    assert len(rows) == 4 * len(PROMPTS)
    loaded = checkpoint.load(directory, device="cpu", dtype="float32")
    rendered = []
    for row in rows:
        *prompt, last = (Message(**turn) for turn in row["messages"])
        rendered.append(loaded.renderer.render(Conversation(tuple(prompt), last.content)))
    ours = [reading.value for reading in loaded.model.score(rendered)]
    assert ours == pytest.approx([row["reward"] for row in rows], abs=1e-5)
    assert max(ours) - min(ours) > 0.01


def test_a_cross_encoder_scores_the_same_where_its_ids_are_ours(
    checkpoint_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """DistilBERT has no segment ids, in which a pair of sentences differs from the turns of a conversation."""
    directory = checkpoint_of("distilbert")
    rows = run_peer("sentence-transformers", "cross_encoder_scores.py", tmp_path, checkpoint=directory, pairs=PAIRS)
    loaded = checkpoint.load(directory, device="cpu", dtype="float32")
    rendered = [loaded.renderer.render(Conversation(as_prompt(prompt), response)) for prompt, response in PAIRS]
    assert [list(one.token_ids) for one in rendered] == [row["token_ids"] for row in rows]
    ours = [reading.value for reading in loaded.model.score(rendered)]
    assert ours == pytest.approx([row["score"] for row in rows], abs=1e-5)
