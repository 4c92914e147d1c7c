"""The course of a training run: what was logged by step, how long it took and on what.

Written beside a checkpoint as `training_log.json`. Knows logged numbers, not the trainer they come from.
"""

import math
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from training.documents import read_document, write_document
from training.rows import DataError

LOG_FILE = "training_log.json"
_FORMAT_VERSION = 1
#: What transformers logs once, at the end.
_SECONDS = "train_runtime"
_CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class TrainingLog:
    """What a run has logged.

    Attributes:
        points: in order, each with `step` and `epoch`; `loss` and others since the last one, or `eval_loss` and others.
        seconds: how long training took, since it was last started; None where it is not known.
        hardware: what it ran on, in words.
        processes: how many took part.
        base_model, dataset: the hub's names of the base model and the training data; None for what lay on disk.
    """

    points: tuple[dict[str, float], ...]
    seconds: float | None
    hardware: str
    processes: int
    base_model: str | None = None
    dataset: str | None = None

    @classmethod
    def of_history(cls, history: Iterable[Mapping[str, Any]], **about: Any) -> "TrainingLog":
        """From what transformers' Trainer keeps in `state.log_history`; numbers that are not finite are left out."""
        entries = list(history)
        seconds = next((float(one[_SECONDS]) for one in reversed(entries) if _SECONDS in one), None)
        points = tuple(
            {name: float(v) for name, v in one.items() if isinstance(v, int | float) and math.isfinite(v)}
            for one in entries
            if "loss" in one or "eval_loss" in one
        )
        return cls(points, seconds, **about)

    def series(self, name: str) -> list[tuple[float, float]]:
        """The steps at which `name` was logged, and its values."""
        return [(one["step"], one[name]) for one in self.points if name in one]

    def write(self, path: Path) -> None:
        """Writes it as JSON, in one step.

        Raises:
            OSError: the disk is full.
        """
        write_document({"format_version": _FORMAT_VERSION, **asdict(self)}, path)


def read_log(path: Path) -> TrainingLog | None:
    """What `TrainingLog.write` wrote; None where there is no such file.

    Raises:
        DataError: it is something else.
    """
    if not path.is_file():
        return None
    try:
        document = read_document(path, _FORMAT_VERSION)
        return TrainingLog(**document | {"points": tuple(document["points"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        msg = f"{path} cannot be read ({type(error).__name__}: {error}): remove it to have a report without it"
        raise DataError(msg) from error


def hardware(device: torch.device) -> str:
    """The device and the processor, in words."""
    threads = torch.get_num_threads()
    processor = f"{_processor()}, {threads} thread{'s' if threads > 1 else ''}"
    return f"{torch.cuda.get_device_name(device)}; {processor}" if device.type == "cuda" else processor


def _processor() -> str:
    lines = _CPU_INFO.read_text().splitlines() if _CPU_INFO.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
