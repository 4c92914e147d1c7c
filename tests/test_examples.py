"""Every recipe runs from its first command to its last, on tiny models and files of a few lines in place of the hub's.

A script is run with a stand-in for Python that writes down what it was called with; the commands are then carried out
here, one after the other, which spares starting Python a dozen times. One script is run as it stands.
"""

import asyncio
import json
import os
import runpy
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from serving import listening

from reward_model import checkpoint
from reward_model.records import Conversation, Text, as_prompt
from service.stub import StubScorer
from training import average, evaluate, train

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
WORDS = ("red", "blue", "green", "small", "large", "old", "new")
MAINS: dict[str, Callable[[list[str]], int]] = {
    "training.train": train.main,
    "training.average": average.main,
    "training.evaluate": evaluate.main,
}
LAUNCHER = ["-m", "accelerate.commands.launch"]

#: Script, architecture of the base, flags that make it small.
RECIPES = {
    "distilbert_laptop.sh": ("distilbert", []),
    "qwen3_0.6b_lora.sh": ("qwen3", ["--max_length", "200", "--eval_fraction", "0.2"]),
    "llama_8b_fsdp2.sh": ("llama", ["--max_length", "200", "--eval_fraction", "0.2"]),
    "helpsteer2_attributes.sh": ("qwen3", ["--max_length", "200", "--num_train_epochs", "1"]),
    "warm_three_seeds.sh": ("distilbert", ["--per_device_train_batch_size", "8"]),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bases")
    for architecture in {architecture for architecture, _ in RECIPES.values()}:
        tiny.tiny_base(directory / architecture, architecture)
    return directory


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs(n: int) -> list[dict[str, object]]:
    return [
        {"prompt": f"Which {WORDS[i % 7]} {n} {i}?", "chosen": f"Gladly: {WORDS[i % 5]}.", "rejected": f"Go away {i}!"}
        for i in range(n)
    ]


def ratings(n: int) -> list[dict[str, object]]:
    names = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    several = "Which one?\n<extra_id_1>Assistant\nThis.\n<extra_id_1>User\nWhich else of "
    return [
        {
            "prompt": f"{several if i % 4 < 2 else 'Which of '}{n} {i // 2}?",
            "response": f"{'Gladly' if i % 2 else 'Go away'}: {WORDS[i % 7]}.",
            **{name: (4 * (i % 2) + k) % 5 for k, name in enumerate(names)},
        }
        for i in range(n)
    ]


def environment(script: str, tmp_path: Path, bases: Path) -> dict[str, str]:
    rated = script.startswith("helpsteer2")
    paths = {
        "MODEL": bases / RECIPES[script][0],
        "DATASET": write(tmp_path / "train.jsonl", ratings(24) if rated else pairs(24)),
        "VALIDATION": write(tmp_path / "validation.jsonl", ratings(12) if rated else pairs(13)),
        "TEST": write(tmp_path / "test.jsonl", pairs(12)),
        "OUTPUT": tmp_path / "out",
    }
    return {**os.environ, **{name: str(path) for name, path in paths.items()}, "GPUS": "2"}


def commands_of(script: str, tmp_path: Path, variables: dict[str, str]) -> list[list[str]]:
    """What the script calls Python with."""
    recorder, record = tmp_path / "python", tmp_path / "commands"
    recorder.write_text(
        f"#!/bin/sh\nfor word in \"$@\"; do printf '%s\\t' \"$word\"; done >> '{record}'\necho >> '{record}'\n"
    )
    recorder.chmod(0o755)
    done = subprocess.run(
        [EXAMPLES / script, *RECIPES[script][1], "--use_cpu", "true", "--disable_tqdm", "true"],
        cwd=ROOT,
        env={**variables, "PYTHON": str(recorder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(f"-m service --model {tmp_path / 'out'}")
    return [line.rstrip("\t").split("\t") for line in record.read_text().splitlines()]


def carry_out(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if command[:2] == LAUNCHER:
        launched = launch_command_parser().parse_args(command[2:])
        assert launched.module
        command = ["-m", launched.training_script, *launched.training_script_args]
    if command[0] == "-m":
        assert MAINS[command[1]](command[2:]) == 0
        return
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / command[0]), run_name="__main__")
    assert ended.value.code == 0


@pytest.mark.parametrize("script", RECIPES)
def test_every_command_of_a_recipe_runs(
    script: str, tmp_path: Path, bases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = commands_of(script, tmp_path, environment(script, tmp_path, bases))
    for command in commands:
        carry_out(command, monkeypatch)
    loaded = checkpoint.load(tmp_path / "out", dtype="float32")
    assert json.loads((tmp_path / "out.metrics.json").read_text())["model_fingerprint"] == loaded.fingerprint
    if script.startswith("helpsteer2"):
        assert loaded.model.scalarisation.names[0] == "helpfulness"
        first = json.loads((tmp_path / "out.data" / "train.jsonl").read_text().splitlines()[0])
        assert [turn["role"] for turn in first["prompt"]] == ["user", "assistant", "user"]
        assert first["prompt"][2]["content"] == "Which else of 24 0?"
    if script.startswith("warm"):
        assert loaded.manifest is not None
        assert {parent["seed"] for parent in loaded.manifest.training["parents"]} == {1, 2, 3}


@pytest.mark.slow
def test_the_recipe_for_several_gpus_runs_as_it_stands_on_two_processes(tmp_path: Path, bases: Path) -> None:
    script = "llama_8b_fsdp2.sh"
    variables = environment(script, tmp_path, bases)
    done = subprocess.run(
        [EXAMPLES / script, *RECIPES[script][1], "--per_device_train_batch_size", "4", "--use_cpu", "true"],
        cwd=ROOT,
        env={**variables, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert checkpoint.load(tmp_path / "out", dtype="float32").manifest is not None


def test_what_accelerate_is_told_is_what_it_knows() -> None:
    config = load_config_from_file(str(EXAMPLES / "fsdp2.yaml"))
    known = {action.dest for action in launch_command_parser()._actions}
    assert config.fsdp_config["fsdp_version"] == 2
    assert set(config.fsdp_config) <= known


def test_the_list_of_examples_is_complete() -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in EXAMPLES.iterdir():
        assert path.name == "README.md" or f"[{path.name}]({path.name})" in listed
    assert {path.name for path in EXAMPLES.glob("*.sh")} == set(RECIPES)
    assert all(os.access(path, os.X_OK) for path in EXAMPLES.glob("*.sh"))


def test_the_scripts_are_clean() -> None:
    command = [Path(sysconfig.get_path("scripts")) / "shellcheck", *EXAMPLES.glob("*.sh")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"response": "r"}', "row 1 has no prompt that is a string"),
        ("[1]", "row 1 has no prompt"),
        ("{", "row 1 has no"),
    ],
)
def test_rows_that_cannot_be_taken_apart_are_an_error(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.jsonl").write_text(line + "\n")
    argv = ["turns", "--dataset_name", str(tmp_path / "rows.jsonl"), "--output_file", str(tmp_path / "out.jsonl")]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / "helpsteer2_turns.py"), run_name="__main__")
    assert ended.value.code == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_each_loop_gets_the_services_scores_in_its_own_form(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = StubScorer(max_length=8)
    turns = [{"role": "user", "content": "a b c d e f g h i j"}]
    rewards = {
        answer: scorer.score(scorer.render(Conversation(as_prompt(turns[0]["content"]), answer), truncate=True)).value
        for answer in ("yes", "no")
    }
    with listening(scorer) as (url, _):
        monkeypatch.setenv("RM_URL", url)
        functions = runpy.run_path(str(EXAMPLES / "reward_functions.py"))
        with functions["client"]() as client:
            client.wait_until_ready(10)
            plain = functions["trl_reward"](["a b c d e f g h i j"] * 2, ["yes", "no"], completion_ids=[[1], [2]])
            messages = functions["trl_reward"](
                [turns] * 2, [[{"role": "assistant", "content": one}] for one in rewards]
            )
            asked = functions["verl_reward"](
                data_source="ours", solution_str="no", ground_truth=None, extra_info={"prompt": turns}
            )
            assert plain == messages == list(rewards.values())
            assert asyncio.run(asked) == rewards["no"]
            text = "<|start|><|user|>short<|assistant|>yes<|end|>"
            whole = functions["reward_func"](queries=[text], prompts=["short"], labels=[None])
            right = scorer.score(scorer.render(Text(text))).value
            assert whole["rewards"].tolist() == whole["scores"].tolist() == pytest.approx([right])
