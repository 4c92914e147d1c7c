"""What a measurement ran on: printed beside every figure, or the figure says nothing.

Knows nothing of what is measured.
"""

import os
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

#: Libraries whose release moves a figure.
LIBRARIES = (
    "torch", "transformers", "tokenizers", "fastapi", "starlette", "uvicorn", "uvloop", "httptools", "pydantic",
    "prometheus_client",
)  # fmt: skip


#: What of a CPU decides how fast bf16 is.
FLAGS = ("avx512_bf16", "amx_bf16")


def describe() -> dict[str, str]:
    """Hardware, system, versions and the command, in the order in which people read them."""
    return {
        "command": shlex.join(["python", *_command()]),
        "cpu": _cpu(),
        "cores": f"{len(os.sched_getaffinity(0))} usable of {os.cpu_count()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    } | {name: _version(name) for name in LIBRARIES}


def _command() -> list[str]:
    module = sys.modules["__main__"].__spec__
    return ["-m", module.name, *sys.argv[1:]] if module is not None else sys.argv


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model, flags = (
        next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "unknown")
        for name in ("model name", "flags")
    )
    return ", ".join([model, *(flag for flag in FLAGS if flag in flags.split())])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
