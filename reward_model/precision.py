"""Which device and number format to compute in, decided once, with the reason.

Knows the hardware, not the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from reward_model.errors import CheckpointRefused

DtypeName = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Precision:
    """Where and how to compute.

    Attributes:
        device: where the model lives.
        dtype: of the backbone; the head is always fp32.
        reason: why this dtype, for the log and `/model`.
    """

    device: torch.device
    dtype: torch.dtype
    reason: str

    @property
    def dtype_name(self) -> str:
        """`float32` or `bfloat16`."""
        return str(self.dtype).removeprefix("torch.")


def choose_precision(device: str = "auto", dtype: DtypeName = "auto") -> Precision:
    """Resolves `auto`: CUDA where there is one, bf16 where the hardware multiplies it fast.

    Raises:
        CheckpointRefused: the device does not exist here.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        chosen = torch.device(name)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        msg = f"device {name!r} cannot be used here: {error}"
        raise CheckpointRefused(msg.splitlines()[0]) from error
    if dtype != "auto":
        return Precision(chosen, getattr(torch, dtype), "asked for")
    fast, reason = _fast_bfloat16(chosen)
    return Precision(chosen, torch.bfloat16 if fast else torch.float32, reason)


def _fast_bfloat16(device: torch.device) -> tuple[bool, str]:
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
        return fast, f"the GPU {'has' if fast else 'lacks'} bf16 tensor cores"
    if device.type == "cpu":
        return _fast_bfloat16_on_cpu(_cpu_capabilities())
    return False, f"fp32 is the safe choice on {device.type}"


def _fast_bfloat16_on_cpu(capabilities: Mapping[str, Any]) -> tuple[bool, str]:
    # Emulated bf16 is slower than fp32, so the instructions themselves must be there.
    if capabilities.get("amx_bf16"):
        return True, "the CPU has amx_bf16"
    if not capabilities.get("avx512_bf16"):
        return False, "the CPU has neither avx512_bf16 nor amx_bf16"
    # Intel's run it at half of fp32's speed, AMD's at twice that: see benchmarks/README.md.
    if _cpu_vendor() == "GenuineIntel":
        return False, "the CPU lacks amx_bf16, and Intel's avx512_bf16 is slower than fp32"
    return True, "the CPU has avx512_bf16"


@cache
def _cpu_vendor() -> str:
    """As Linux names it, `GenuineIntel` say; empty where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


def has_avx512_bf16() -> bool:
    """Whether this CPU multiplies pairs of bf16, and torch is not told to use less of it."""
    return _may_use("avx512_bf16")


def has_amx() -> bool:
    """Whether this CPU multiplies tiles of bf16 (Intel's AMX), and torch is not told to use less of it."""
    return _may_use("amx_bf16")


def _may_use(instructions: str) -> bool:
    told = torch.backends.cpu.get_cpu_capability()
    return bool(_cpu_capabilities().get(instructions)) and told not in {"DEFAULT", "AVX2"}


def _cpu_capabilities() -> Mapping[str, Any]:
    if hasattr(torch.cpu, "get_capabilities"):
        return torch.cpu.get_capabilities()
    # Older releases (2.11) know as much, under names of their own.
    return {"avx512_bf16": torch.cpu._is_avx512_bf16_supported(), "amx_bf16": torch.cpu._is_amx_tile_supported()}  # noqa: SLF001
