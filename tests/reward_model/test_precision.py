"""Where to compute, and in which format: decided once, with a reason."""

import platform
import subprocess
import sys
from typing import Any

import pytest
import torch

from reward_model import precision
from reward_model.errors import CheckpointRefused
from reward_model.precision import choose_precision, has_amx, has_avx512_bf16


@pytest.mark.parametrize(("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_format_that_is_asked_for_is_taken(name: str, dtype: torch.dtype) -> None:
    chosen = choose_precision("cpu", name)
    assert (chosen.dtype, chosen.dtype_name, chosen.reason) == (dtype, name, "asked for")


@pytest.mark.parametrize(
    ("flags", "vendor", "dtype"),
    [
        ({}, "GenuineIntel", torch.float32),
        ({}, "AuthenticAMD", torch.float32),
        ({"avx512_bf16": True}, "AuthenticAMD", torch.bfloat16),
        ({"avx512_bf16": True}, "", torch.bfloat16),
        # Intel's without AMX, or with AMX kept from a virtual machine.
        ({"avx512_bf16": True}, "GenuineIntel", torch.float32),
        ({"avx512_bf16": True, "amx_bf16": True}, "GenuineIntel", torch.bfloat16),
    ],
)
def test_auto_takes_bf16_only_where_the_cpu_is_faster_at_it(
    flags: dict[str, bool], vendor: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    monkeypatch.setattr(precision, "_cpu_vendor", lambda: vendor)
    chosen = choose_precision("cpu")
    assert chosen.dtype == dtype
    assert "bf16" in chosen.reason


@pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="nothing else names a vendor")
def test_the_vendor_is_the_one_that_linux_names() -> None:
    named = subprocess.run(["lscpu"], capture_output=True, text=True, check=True, env={"LC_ALL": "C"}).stdout
    assert f" {precision._cpu_vendor()}\n" in named


def test_auto_also_works_where_torch_is_too_old_to_list_capabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(precision, "_cpu_vendor", lambda: "AuthenticAMD")
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
