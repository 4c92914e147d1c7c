"""Means of weights are plain means: in fp64, rounded once, whatever number of files they are in."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from reward_model.errors import CheckpointRefused
from training.weights import average_weights


def written(directory: Path, *files: dict[str, Tensor]) -> Path:
    directory.mkdir()
    for i, tensors in enumerate(files):
        save_file(tensors, directory / f"model-{i}.safetensors")
    return directory


def mean_of(tmp_path: Path, *members: Path, weights: tuple[float, ...] | None = None) -> dict[str, Tensor]:
    average_weights(members, weights or (1.0,) * len(members), tmp_path / "mean.safetensors")
    result: dict[str, Tensor] = load_file(tmp_path / "mean.safetensors")
    return result


def test_the_average_is_the_plain_mean_to_the_last_bit(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(50, 7, generator=generator) for _ in range(3)]
    members = [written(tmp_path / str(i), {"w": tensor}) for i, tensor in enumerate(tensors)]
    assert mean_of(tmp_path, *members)["w"].equal(torch.stack(tensors).double().mean(0).float())


def test_only_the_proportions_of_weights_count(tmp_path: Path) -> None:
    members = [written(tmp_path / str(i), {"w": torch.tensor([float(i)])}) for i in range(2)]
    assert mean_of(tmp_path, *members, weights=(1.0, 3.0))["w"].tolist() == [0.75]
    assert mean_of(tmp_path, *members, weights=(2.0, 6.0))["w"].tolist() == [0.75]


def test_shards_need_not_be_cut_alike_and_half_precision_becomes_fp32(tmp_path: Path) -> None:
    one = written(tmp_path / "one", {"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.zeros(1)})
    two = written(tmp_path / "two", {"b": torch.ones(1)}, {"a": torch.zeros(2)})
    mean = mean_of(tmp_path, one, two)
    assert {name: tensor.tolist() for name, tensor in mean.items()} == {"a": [0.5, 0.5], "b": [0.5]}
    assert {tensor.dtype for tensor in mean.values()} == {torch.float32}


def test_whole_numbers_that_agree_are_kept(tmp_path: Path) -> None:
    members = [written(tmp_path / str(i), {"positions": torch.arange(3)}) for i in range(2)]
    assert mean_of(tmp_path, *members)["positions"].equal(torch.arange(3))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"w": torch.zeros(3)}, r"w have different shapes: \(2,\), \(3,\)"),
        ({"v": torch.zeros(2)}, "only some of the checkpoints have: v, w"),
        ({"w": torch.zeros(2), "n": torch.arange(2)}, "only some of the checkpoints have: n"),
    ],
)
def test_weights_that_do_not_match_are_refused(tmp_path: Path, other: dict[str, Tensor], message: str) -> None:
    members = [written(tmp_path / "one", {"w": torch.zeros(2)}), written(tmp_path / "two", other)]
    with pytest.raises(CheckpointRefused, match=message):
        mean_of(tmp_path, *members)


def test_whole_numbers_that_differ_have_no_mean(tmp_path: Path) -> None:
    members = [written(tmp_path / str(i), {"n": torch.tensor([i])}) for i in range(2)]
    with pytest.raises(CheckpointRefused, match="n holds whole numbers that differ"):
        mean_of(tmp_path, *members)
