"""Where to compute, and in which format: decided once, with a reason."""

from typing import Any

import pytest
import torch

from reward_model.errors import CheckpointRefused
from reward_model.precision import choose_precision, has_amx, has_avx512_bf16


@pytest.mark.parametrize(("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_format_that_is_asked_for_is_taken(name: str, dtype: torch.dtype) -> None:
    precision = choose_precision("cpu", name)
    assert (precision.dtype, precision.dtype_name, precision.reason) == (dtype, name, "asked for")


def test_auto_takes_bf16_only_where_the_cpu_has_instructions_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, dtype in (({"avx512_bf16": True}, torch.bfloat16), ({}, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda flags=flags: flags)
        precision = choose_precision("cpu")
        assert precision.dtype == dtype
        assert "avx512_bf16" in precision.reason


def test_auto_also_works_where_torch_is_too_old_to_list_capabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for supported, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda supported=supported: supported)
        assert choose_precision("cpu").dtype == dtype


@pytest.mark.parametrize(
    ("there", "told", "expected"), [(True, "AVX512", True), (False, "AVX512", False), (True, "AVX2", False)]
)
@pytest.mark.parametrize(("name", "has"), [("amx_bf16", has_amx), ("avx512_bf16", has_avx512_bf16)])
def test_instructions_are_used_where_the_cpu_has_them_and_torch_may(
    name: str, has: Any, there: bool, told: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {name: there})
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: told)
    assert has() is expected


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(CheckpointRefused, match="'cuda:99' cannot be used"):
        choose_precision("cuda:99")
