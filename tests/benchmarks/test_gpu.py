"""What is to be measured on a GPU has been tried out on a CPU: all candidates of a part compute the same."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import attention, lengths, models, throughput, training
from benchmarks.gpu import device as limits
from reward_model.precision import Precision

CPU = torch.device("cpu")


def test_the_engine_and_transformers_score_the_same() -> None:
    sequences = lengths.sequences([3, 40, 17, 40, 1, 90], vocabulary=1000)
    ours, theirs = models.engine("tiny", CPU, torch.float32), models.plain("tiny", CPU, torch.float32)
    expected = throughput.run_padded(theirs, sequences, 1)
    assert throughput.run_launched(ours, sequences, 60) == pytest.approx(expected, abs=1e-5)
    assert throughput.run_padded(theirs, sequences, 4) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_all_ways_to_compute_attention_give_the_same(causal: bool) -> None:
    sizes = [7, 30, 30, 1]
    query, key, value = (torch.randn(1, heads, sum(sizes), 16) for heads in (4, 2, 2))
    results = [run() for run in attention.candidates(query, key, value, sizes, causal=causal).values()]
    assert len(results) == 2
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_packed_and_padded_steps_have_the_same_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "PROMPT", 30)
    monkeypatch.setattr(training, "RESPONSE", 10)
    pairs = training._pairs(1000)
    steps = [training.packed("tiny", pairs, CPU, 200), training.padded("tiny", pairs, CPU, 4)]
    losses = [[step() for _ in range(3)] for step in steps]
    assert losses[0] == pytest.approx(losses[1], abs=0.01)
    assert losses[0][0] != losses[0][2]


@pytest.mark.parametrize("shape", [name for name in models.SHAPES if name != "tiny"])
def test_a_shape_has_as_many_layers_as_its_config_says(shape: str) -> None:
    network = models.network(shape, torch.device("meta"))
    assert network.config.num_labels == 1
    parameters = sum(one.numel() for one in network.parameters())
    expected = {"qwen3-0.6b": 0.596, "llama-3.2-1b": 1.236, "llama-3.1-8b": 7.505, "modernbert-base": 0.150}
    assert parameters / 1e9 == pytest.approx(expected.get(shape, 0.435), rel=0.01)


def test_lengths_are_mixed_as_in_the_data() -> None:
    drawn = lengths.like_hh(5000)
    assert 8 <= min(drawn) < max(drawn) == 512
    assert sum(drawn) / len(drawn) == pytest.approx(157, rel=0.05)


def test_limits_are_measured() -> None:
    assert limits.matrix_peak(CPU, torch.float32) > 1e8
    assert limits.linear_rate([(64, 32), (64, 32), (32, 64)], 128, CPU, torch.float32) > 1e7
    assert limits.bandwidth(CPU) > 1e7


@pytest.mark.slow
def test_all_parts_run_and_one_that_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> list[object]:
        message = "on purpose"
        raise RuntimeError(message)

    monkeypatch.setattr(training, "PROMPT", 30)
    monkeypatch.setitem(command.PARTS, "limits", fail)
    written = tmp_path / "gpu.json"
    flags = ["--device", "cpu", "--dtype", "float32", "--rounds", "1", "--output_file", str(written)]
    parts = [name for name in command.PARTS if name != "tests"]
    monkeypatch.setattr(sys, "argv", ["gpu", *flags, "--parts", *parts])
    with pytest.raises(SystemExit, match=r"failed or left out: limits$"):
        command.main()
    figures = json.loads(written.read_text())
    assert list(figures) == ["machine", *parts]
    assert [name for name in parts if not figures[name]] == ["limits"]
    assert {row["clients"] for row in figures["served"][0]} == {32, 256}
    assert "on purpose" in capsys.readouterr().err


def test_parts_for_which_there_is_no_time_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--device", "cpu", "--parts", "limits", "training", "--seconds", "0"]
    monkeypatch.setattr(sys, "argv", ["gpu", *flags])
    with pytest.raises(SystemExit, match=r"left out: limits, training$"):
        command.main()


def test_without_a_gpu_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(SystemExit):
        command.main()
    assert "--device cpu only tries the parts out" in capsys.readouterr().err


def test_the_models_are_built_where_they_are_to_be() -> None:
    assert models.engine("tiny", CPU, torch.bfloat16).precision == Precision(CPU, torch.bfloat16, "of the benchmark")
