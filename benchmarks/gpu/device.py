"""A device's clock and its limits: matrix products and memory, measured there and then.

Knows tensors, not models.
"""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch.nn import functional as F

from benchmarks.timing import Sample, alternate

#: Sides of the square products; one is as fast as the chip goes.
SIDES = (4096, 8192, 16_384)
COPIED = 2**31
#: What a part is tried out with where there is no GPU.
SMALL_SIDES = (128, 256)
SMALL_COPIED = 2**22


def wait(device: torch.device) -> None:
    """Returns when the device has done all it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """How long `run` takes, the device's work included."""
    wait(device)
    started = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - started


def in_turns(runs: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, Sample]:
    """Seconds of each, by turns."""
    return alternate({name: partial(seconds, run, device) for name, run in runs.items()}, rounds)


def describe(device: torch.device) -> dict[str, str]:
    """What it is, in the order in which people read it."""
    if device.type != "cuda":
        return {"device": f"{device} ({platform.machine()}): tried out, not measured"}
    properties = torch.cuda.get_device_properties(device)
    return {
        "device": f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB",
        "multiprocessors": str(properties.multi_processor_count),
        "cuda": str(torch.version.cuda),
    }


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Most operations a second of one product of random square matrices."""
    best = 0.0
    for side in SIDES if device.type == "cuda" else SMALL_SIDES:
        x, weight = torch.randn(2, side, side, device=device).to(dtype)
        best = max(best, 2 * side**3 / _least(partial(F.linear, x, weight), device))
    return best


def linear_rate(shapes: Sequence[tuple[int, int]], rows: int, device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of `F.linear` at all of a model's (in, out), one after another: what its layers can reach."""
    operations = took = 0.0
    for width, height in sorted(set(shapes)):
        x, weight = (torch.randn(n, width, device=device).to(dtype) for n in (rows, height))
        times = shapes.count((width, height))
        operations += times * 2 * rows * width * height
        took += times * _least(partial(F.linear, x, weight), device)
    return operations / took


def bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written, of a copy within the device's memory."""
    source = torch.empty(COPIED if device.type == "cuda" else SMALL_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * len(source) / _least(lambda: target.copy_(source), device)


def _least(run: Callable[[], object], device: torch.device, *, times: int = 10) -> float:
    """Seconds of one run: the best of five times ten in a row, after two that do not count."""

    def several() -> None:
        for _ in range(times):
            run()

    run(), run()
    return min(seconds(several, device) for _ in range(5)) / times
