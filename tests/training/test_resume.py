"""A run that was killed goes on where it was, to the bit, and never from anything half-written."""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import runs
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerState
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from training.resume import AUTO, MARKER, ResumeRefused, begin, choose, complete, rotate, what_is_missing
from training.train import main

SAVING = {"save_strategy": "steps", "save_steps": 1}
RUN = {"processes": 1, "flags": {"seed": 1, "learning_rate": 0.1}, "base": {"config.json": "aa"}}


def checkpoint(root: Path, step: int, run: dict[str, Any] = RUN) -> Path:
    directory = root / f"checkpoint-{step}"
    (directory / "shards").mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(b"weights")
    (directory / "shards" / "0.distcp").write_bytes(b"state")
    complete(directory, run)
    return directory


def test_the_newest_whole_checkpoint_is_taken(tmp_path: Path) -> None:
    assert choose(tmp_path, AUTO, RUN) is None
    checkpoint(tmp_path, 9)
    tenth = checkpoint(tmp_path, 10)
    (checkpoint(tmp_path, 11) / MARKER).unlink()
    (tmp_path / "checkpoint-last").mkdir()
    assert choose(tmp_path, AUTO, RUN) == tenth
    assert choose(tmp_path, str(tmp_path / "checkpoint-9"), RUN) == tmp_path / "checkpoint-9"
    assert choose(tmp_path, None, RUN) is None


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda one: (one / MARKER).unlink(), "the run ended while saving it"),
        (lambda one: (one / MARKER).write_text("{"), "cannot be read"),
        (lambda one: (one / MARKER).write_text('{"format_version": 2}'), "format version 2, this release reads 1"),
        (lambda one: (one / "model.safetensors").unlink(), "model.safetensors is not as it was written"),
        (lambda one: (one / "shards" / "0.distcp").write_bytes(b"stat"), "0.distcp is not as it was written"),
    ],
)
def test_what_is_not_whole_is_refused(tmp_path: Path, harm: Callable[[Path], object], message: str) -> None:
    first, second = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    harm(second)
    with pytest.raises(ResumeRefused, match=message):
        choose(tmp_path, str(second), RUN)
    assert choose(tmp_path, AUTO, RUN) == first


def test_what_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResumeRefused, match="there is no such directory"):
        choose(tmp_path, str(tmp_path / "nowhere"), RUN)


@pytest.mark.parametrize("wanted", [AUTO, "checkpoint-3"])
def test_a_checkpoint_of_another_run_is_refused_with_what_differs(tmp_path: Path, wanted: str) -> None:
    checkpoint(tmp_path, 3)
    other = {"processes": 2, "flags": {"seed": 1, "learning_rate": 0.2}, "base": {"config.json": "bb"}}
    name = wanted if wanted == AUTO else str(tmp_path / wanted)
    with pytest.raises(ResumeRefused) as refused:
        choose(tmp_path, name, other)
    for difference in ("processes was 1, is 2", "--learning_rate was 0.1, is 0.2", "base config.json was aa, is bb"):
        assert difference in str(refused.value)
    assert "seed" not in str(refused.value)


def test_only_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    best = checkpoint(tmp_path, 1)
    for step in (2, 3, 10):
        newest = checkpoint(tmp_path, step)
    rotate(newest, 2, [str(best)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-10"]
    rotate(newest, None, [None])
    assert best.exists()
    rotate(newest, 1, [None])
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]


def test_a_checkpoint_is_written_anew_where_half_of_one_is(tmp_path: Path) -> None:
    begin(checkpoint(tmp_path, 1))
    assert not (tmp_path / "checkpoint-1").exists()


def test_resuming_with_other_flags_or_data_is_an_error_and_with_freed_ones_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(runs.argv(tmp_path, "out", pairs=8, **SAVING)) == 0
    for changed in ({"learning_rate": 2e-3}, {"pairs": 9}, {"eval_fraction": 0.1}):
        flags = {"pairs": 8, **SAVING, **changed}
        assert main(runs.argv(tmp_path, "out", **flags, resume_from_checkpoint=AUTO)) == 1
        assert "is of another run" in capsys.readouterr().err
    held_out = tmp_path / "held_out_too.jsonl"
    runs.write_pairs(held_out, range(200, 212))
    other = runs.argv(tmp_path, "out", pairs=8, **SAVING, eval_dataset_name=held_out, resume_from_checkpoint=AUTO)
    assert main(other) == 1
    assert "eval_dataset_fingerprint was" in capsys.readouterr().err
    free = {"save_steps": 5, "save_total_limit": 1, "logging_steps": 2, "eval_strategy": "no", "max_batch_tokens": 999}
    assert main(runs.argv(tmp_path, "out", pairs=8, **SAVING | free, resume_from_checkpoint=AUTO)) == 0


def test_weights_that_are_missing_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = runs.argv(tmp_path, "out", pairs=8, **SAVING)
    assert main(argv) == 0
    newest = tmp_path / "out.trainer" / "checkpoint-2"
    run = json.loads((newest / MARKER).read_text())["run"]
    kept = load_file(newest / "model.safetensors")
    del kept["model.score.weight"]
    save_file(kept, newest / "model.safetensors")
    complete(newest, run)
    assert main([*argv, "--resume_from_checkpoint", AUTO]) == 1
    assert "weights are not those of this model: model.score.weight" in capsys.readouterr().err


def chance() -> random.Random:
    """Random numbers whose seed is printed, so that a failure can be repeated."""
    seed = random.SystemRandom().randrange(10**6)
    sys.stdout.write(f"seed {seed}\n")
    return random.Random(seed)


class Killer(TrainerCallback):
    """Ends the process in the middle of a step."""

    step = 0

    def on_pre_optimizer_step(self, args: object, state: TrainerState, control: object, **_: object) -> None:
        """After the gradients of the step."""
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def killed_in(step: int, argv: list[str]) -> int:
    Killer.step = step
    INTEGRATION_TO_CALLBACK["killer"] = Killer
    return main([*argv, "--report_to", "killer"])


def steps(directory: Path) -> list[int]:
    return [int(path.name.split("-")[1]) for path in directory.glob("checkpoint-*")]


EXACT = [
    {"num_train_epochs": 2},
    {"num_train_epochs": 2, "bf16": "true", "disable_dropout": "false", "gradient_accumulation_steps": 2},
    {"use_peft": "true", "lora_dropout": 0.1, "layer_decay": 0.5},
]


@pytest.mark.parametrize("flags", EXACT)
def test_a_run_killed_at_a_random_step_ends_with_the_same_bits(tmp_path: Path, flags: dict[str, Any]) -> None:
    assert main(runs.argv(tmp_path, "whole", "bert", **flags, **SAVING)) == 0
    last = max(steps(tmp_path / "whole.trainer"))
    argv = runs.argv(tmp_path, "killed", "bert", **flags, **SAVING, save_total_limit=2)
    step = chance().randrange(1, last)
    assert runs.ended(runs.start(killed_in, step, argv, log=tmp_path / "log")) == [-signal.SIGKILL]
    assert max(steps(tmp_path / "killed.trainer")) == step
    assert not (tmp_path / "killed").exists()
    assert main([*argv, "--resume_from_checkpoint", AUTO]) == 0
    whole, resumed = (runs.weights(tmp_path / name) for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert sorted(steps(tmp_path / "killed.trainer")) == [last - 1, last]


def test_what_is_taken_for_whole_is_whole_whenever_the_run_is_killed(tmp_path: Path) -> None:
    draw = chance()
    argv = runs.argv(tmp_path, "killed", num_train_epochs=8, **SAVING, save_total_limit=1)
    root, taken = tmp_path / "killed.trainer", 0
    for more in (2, *draw.choices((1, 2, 3), k=4)):
        process = runs.start(main, [*argv, "--resume_from_checkpoint", AUTO], log=tmp_path / "log")
        while process.is_alive() and max(steps(root), default=0) < taken + more:
            time.sleep(0.001)
        time.sleep(draw.random() / 20)
        process.kill()
        process.join()
        whole = [path for path in root.iterdir() if what_is_missing(path) is None]
        for path in whole:
            assert all(tensor.isfinite().all() for tensor in load_file(path / "model.safetensors").values())
            for name in ("optimizer.pt", "scheduler.pt"):
                torch.load(path / name, weights_only=True)
        now = max((int(path.name.split("-")[1]) for path in whole), default=0)
        # Once there was one, there always is: the old one goes when the new one is whole.
        assert now >= taken
        taken = now
    assert taken > 0
    assert main([*argv, "--resume_from_checkpoint", AUTO]) == 0
    assert main(runs.argv(tmp_path, "whole", num_train_epochs=8)) == 0
    whole_run, resumed = (runs.weights(tmp_path / name) for name in ("whole", "killed"))
    assert all(torch.equal(whole_run[name], resumed[name]) for name in whole_run)
