"""Our own kernels for bf16 on a CPU: what was built from csrc where the package was installed, and may be used here.

Without a C compiler there, or AVX-512 BF16 here, torch's operators do their work. Knows the hardware, not what the
kernels compute.
"""

import ctypes
import logging
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

from reward_model.precision import has_amx, has_avx512_bf16

log = logging.getLogger(__name__)

#: Of the kernels' arguments; csrc/attention.c says the same.
VERSION = 4
#: What those that take their arguments one by one take: pointers, numbers of 64 bits, floats and ints.
_TAKE = {"reward_model_norm": "ppppppnnnfii", "reward_model_gated": "pppnnnnii", "reward_model_rotated": "ppppnnnnni"}
_TYPES = {"p": ctypes.c_void_p, "n": ctypes.c_int64, "f": ctypes.c_float, "i": ctypes.c_int}


def is_compiled_for(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there are kernels for it: for bf16 on a CPU that multiplies it, if they were built."""
    return device.type == "cpu" and dtype == torch.bfloat16 and has_avx512_bf16() and shared_object() is not None


@cache
def shared_object() -> ctypes.CDLL | None:
    """The kernels, if they were built; their threads are those of torch, which has been imported by now."""
    try:
        return _load()
    except OSError as error:
        log.warning("torch's operators do what our own kernels do faster; these cannot be used: %s", error)
        return None


def _load() -> ctypes.CDLL:
    """The kernels, or an OSError that says what is wrong with them."""
    built = [path for end in EXTENSION_SUFFIXES if (path := Path(__file__).with_name(f"_native{end}")).exists()]
    if not built:
        msg = "they were not built; install a C compiler and then the package anew"
        raise FileNotFoundError(msg)
    found = ctypes.CDLL(str(built[0]))
    # A build that failed leaves the one before it in place.
    if getattr(found, f"reward_model_version_{VERSION}", None) is None:
        msg = f"{built[0]} is of another version: install the package anew"
        raise OSError(msg)
    for name, types in _TAKE.items():
        getattr(found, name).argtypes = [_TYPES[one] for one in types]
    return found


def has_tiles() -> bool:
    """Whether kernels may use AMX."""
    return has_amx() and _may_use_tiles()


@cache
def _may_use_tiles() -> bool:
    """Linux wants to be asked before AMX is used, once."""
    return torch.cpu._init_amx()  # noqa: SLF001 - it has no public name
