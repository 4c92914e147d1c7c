"""Kernels that may be missing: torch's operators do their work then, and that is said."""

import ctypes
import platform
import shutil
from pathlib import Path

import pytest
import tiny
import torch

from reward_model import compiled, native, norms
from reward_model.model import RewardModel
from reward_model.precision import choose_precision
from reward_model.rendering import Rendered


@pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64") or shutil.which("gcc") is None,
    reason="the kernels are for x86-64, and there must be a compiler",
)
def test_where_there_is_a_compiler_they_have_been_built() -> None:
    assert compiled.shared_object() is not None


def test_where_they_were_not_built_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiled, "EXTENSION_SUFFIXES", [])
    assert compiled.shared_object.__wrapped__() is None
    assert "they were not built" in caplog.text


@pytest.mark.parametrize(("symbol", "said"), [(None, "undefined symbol: GOMP_parallel"), ("other", "another version")])
def test_what_does_not_fit_is_not_used(
    symbol: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def load(_: str) -> object:
        if symbol is None:
            raise OSError(said)
        return object()

    (tmp_path / "_native.so").touch()
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "compiled.py"))
    monkeypatch.setattr(compiled, "EXTENSION_SUFFIXES", [".so"])
    monkeypatch.setattr(ctypes, "CDLL", load)
    assert compiled.shared_object.__wrapped__() is None
    assert said in caplog.text


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_scores_are_the_same_without_them(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [Rendered(None, [5 + (7 * i + j * j) % 50 for j in range(n)]) for i, n in enumerate((3, 17, 90, 50, 1))]
    found = []
    for there in (True, False):
        if not there:
            for module in (native, norms):
                monkeypatch.setattr(module, "is_compiled_for", lambda *_: False)
        network = tiny.tiny_model(architecture, tiny.tiny_tokenizer(tiny.kind_of(architecture)))
        model = RewardModel(network, choose_precision("cpu", "bfloat16")).freeze()
        found.append(torch.tensor([score.value for score in model.score(inputs)]))
    assert (found[0] - found[1]).abs().max() < 0.05 * max(1.0, float(found[0].abs().max()))
