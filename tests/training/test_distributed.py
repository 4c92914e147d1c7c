"""Two processes train as one: with copies of the parameters, with parts of them, and with adapters; and fail as one."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import runs
import tiny
import torch
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from reward_model.model import RewardModel
from training.train import main

#: Seven steps, the last of one pair, so that one of two processes has none.
WHOLE = {"pairs": 25, "per_device_train_batch_size": 4}
HALF = {"pairs": 25, "per_device_train_batch_size": 2}


def together(
    directory: Path, *commands: Sequence[str], function: Callable[..., object] = main
) -> tuple[list[int | None], list[str]]:
    """Exit codes and prints of two processes."""
    logs = [directory / f"log.{i}" for i in range(2)]
    codes = runs.ended(*runs.start_together(function, *commands, logs=logs))
    return codes, [log.read_text() for log in logs]


def assert_close(a: Path, b: Path) -> None:
    one, other = runs.weights(a), runs.weights(b)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        # Of what no difference of rewards depends on, the gradient is rounding, which Adam makes steps of.
        if not name.endswith(("key.bias", "classifier.bias")):
            assert torch.allclose(tensor, other[name], rtol=0, atol=1e-6), name


def test_two_processes_train_as_one_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(runs.argv(tmp_path, "one", **WHOLE, gradient_accumulation_steps=2)) == 0
    expected = runs.losses(capsys.readouterr().out)
    several_packs = {"gradient_accumulation_steps": 2, "max_batch_tokens": 90}
    codes, (first, second) = together(tmp_path, runs.argv(tmp_path, "two", **HALF, **several_packs))
    assert codes == [0, 0], first + second
    assert runs.losses(first) == pytest.approx(expected, abs=1e-4)
    assert len(expected) == 4
    assert_close(tmp_path / "one", tmp_path / "two")
    assert "loss" not in second
    assert "held-out pairs" not in second


def test_divided_parameters_are_trained_as_whole_ones_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(runs.argv(tmp_path, "one", "bert", **WHOLE, layer_decay=0.5)) == 0
    expected = runs.losses(capsys.readouterr().out)
    divided = {"fsdp": None, "fsdp_config": '{"activation_checkpointing": true}', "max_batch_tokens": 90}
    command = runs.argv(tmp_path, "two", "bert", **HALF, layer_decay=0.5, **divided)
    codes, (printed, _) = together(tmp_path, command)
    assert codes == [0, 0], printed
    assert runs.losses(printed) == pytest.approx(expected, abs=1e-4)
    assert_close(tmp_path / "one", tmp_path / "two")


class Divided(TrainerCallback):
    """Says what a process holds of the parameters, and in what it computes."""

    def on_train_begin(self, args: object, state: object, control: object, *, model: RewardModel, **_: object) -> None:
        """Prints it."""
        held = [parameter.to_local().numel() for parameter in model.parameters() if isinstance(parameter, DTensor)]
        whole = sum(parameter.numel() for parameter in model.parameters())
        layer, head = model.model.model.layers[0], model.head_modules()[0]
        dtypes = (one._get_fsdp_state()._fsdp_param_group.mp_policy.param_dtype for one in (layer, head))
        sys.stdout.write(f"holds {sum(held)} of {whole}, layers in {next(dtypes)}, head in {next(dtypes)}\n")


def watched(command: Sequence[str]) -> int:
    INTEGRATION_TO_CALLBACK["divided"] = Divided
    return main([*command, "--report_to", "divided"])


def test_each_process_holds_a_part_and_adapters_are_merged_into_the_whole(tmp_path: Path) -> None:
    lora = {"use_peft": "true", "learning_rate": 1e-2, "bf16": "true", "dtype": "bfloat16"}
    assert main(runs.argv(tmp_path, "one", **WHOLE, **lora)) == 0
    codes, printed = together(tmp_path, runs.argv(tmp_path, "two", **HALF, **lora, fsdp=None), function=watched)
    assert codes == [0, 0], printed[0]
    one, two, base = (runs.weights(tmp_path / name) for name in ("one", "two", "base-llama"))
    assert {tensor.dtype for tensor in two.values()} == {torch.float32}
    assert one.keys() == two.keys() == base.keys()
    for name in one:
        if name.endswith("proj.weight"):
            assert 0 < (one[name] - two[name]).norm() < 0.1 * (one[name] - base[name]).norm(), name
    for text in printed:
        found = re.search(r"holds (\d+) of (\d+), layers in torch.bfloat16, head in None\n", text)
        assert found, text
        assert int(found[1]) == pytest.approx(int(found[2]) / 2, rel=0.05)


def all_fail(*commands: Sequence[str]) -> int:
    """Whether each fails; RANK in an argument is the process's number."""
    own = [[part.replace("RANK", os.environ["RANK"]) for part in command] for command in commands]
    return 0 if [main(command) for command in own] == [1] * len(own) else 1


def test_what_fails_in_one_process_ends_both_and_is_said_once(tmp_path: Path) -> None:
    tiny.tiny_base(tmp_path / "base-bert", "bert", initializer_range=0.0)
    tiny.tiny_base(tmp_path / "base-albert", "albert", embedding_size=32)
    for i in range(2):
        runs.write_pairs(tmp_path / f"differs.{i}.jsonl", range(8 + i))
    runs.write_pairs(tmp_path / "lacks.0.jsonl", range(8))
    diverging = {"learning_rate": 1e30, "max_grad_norm": 0.0, "warmup_steps": 0}
    codes, (first, second) = together(
        tmp_path,
        runs.argv(tmp_path, "a", **HALF, **diverging),
        runs.argv(tmp_path, "b", "bert", **HALF, learning_rate=0.0),
        runs.argv(tmp_path, "c", **HALF, resume_from_checkpoint=tmp_path / "nowhere"),
        runs.argv(tmp_path, "d", dataset_name=tmp_path / "differs.RANK.jsonl"),
        runs.argv(tmp_path, "e", dataset_name=tmp_path / "lacks.RANK.jsonl"),
        runs.argv(tmp_path, "f", fsdp=None, fsdp_config='{"cpu_ram_efficient_loading": true}'),
        runs.argv(tmp_path, "g", "albert", fsdp=None),
        function=all_fail,
    )
    assert codes == [0, 0], first + second
    for message in (
        "Lower --learning_rate",
        "nothing was learned",
        "nowhere is no whole checkpoint",
        "read different data",
        "cpu_ram_efficient_loading must be false",
        "AlbertForSequenceClassification does not keep its layers in one list: name their class",
    ):
        assert first.count(message) == 1
        assert message not in second
    assert "lacks.1.jsonl: there is no such file" in second
    assert "no such file" not in first


def test_one_process_has_nobody_to_divide_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")  # accelerate sets it
    assert main(runs.argv(tmp_path, "alone", fsdp=None)) == 1
    assert "start several with torchrun" in capsys.readouterr().err


@pytest.mark.slow
def test_torchrun_starts_both(tmp_path: Path) -> None:
    assert main(runs.argv(tmp_path, "one", **WHOLE)) == 0
    launcher = ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(runs.free_port())]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "-m", "training.train", *runs.argv(tmp_path, "two", **HALF)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert_close(tmp_path / "one", tmp_path / "two")
