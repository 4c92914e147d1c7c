"""Pairs whose label the model confidently disagrees with, written out for people to look at.

Whether a label is wrong only a person can say. A model that has not learned from a pair finds the ones worth the time:
of what it is sure of, mistakes are a larger part (Northcutt et al. 2021, arXiv 1911.00068). Knows judgements and data
sets, not models.
"""

import json
import logging
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reward_model.atomic import replaced_file
from reward_model.calibration import Calibration
from training.data import RowReport, read_pairs
from training.first_sight import Judged
from training.pairs import PreferencePair
from training.rows import DataError, identity
from training.rowwise import by_row

logger = logging.getLogger(__name__)

#: Pairs are reported whose label is right with less than this probability.
THRESHOLD = 0.2
#: The texts of people's prompts are for whoever started the run.
_PRIVATE = 0o600


def check_place(path: Path, data_sets: Iterable[str], directories: Iterable[Path]) -> None:
    """Makes sure, before anything is trained, that the report can be written to `path`; its directory is made.

    Args:
        path: where the report is to be.
        data_sets: names of what is read, which the report must not take the place of.
        directories: what the run replaces or removes as a whole.

    Raises:
        DataError: something would be lost there.
        OSError: nothing can be written there.
    """
    place = path.resolve()
    for name in data_sets:
        here = Path(name.partition(":")[0]).expanduser().resolve()
        if identity(name) == str(place) or (here.is_dir() and place.is_relative_to(here)):
            msg = f"--label_noise_file {path} would take the place of what is read from {name}: name another file"
            raise DataError(msg)
    for directory in directories:
        if place.is_relative_to(directory.resolve()):
            msg = (
                f"--label_noise_file {path} lies in {directory}, which the run replaces as a whole: name another place"
            )
            raise DataError(msg)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        msg = f"--label_noise_file {path} cannot be written: {error}"
        raise OSError(msg) from error


@dataclass(frozen=True, slots=True)
class LabelNoise:
    """What was judged, and by whom.

    Attributes:
        against: by data set, the pairs whose label goes against the model; see `training.first_sight`.
        calibration: from margins to probabilities.
        judged: how many training pairs were judged.
        partial: training pairs are missing, because training was resumed or ended within the first epoch.
    """

    against: Mapping[str, Judged]
    calibration: Calibration
    judged: int
    partial: bool

    def record(self) -> dict[str, Any]:
        """Counts for the checkpoint; no texts."""
        return {
            "threshold": THRESHOLD,
            "disagreements": sum(len(self._sure(name)) for name in self.against),
            "judged_training_pairs": self.judged,
            "partial": self.partial,
        }

    def write(self, path: Path) -> None:
        """Writes the pairs as JSON lines, those that the model is most sure of first.

        The texts are read again from the data sets. They may be many, so they wait on disk to be put in order.

        Raises:
            DataError: a data set cannot be read any more.
            OSError: the disk is full.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        places: list[tuple[float, int, int]] = []
        with tempfile.TemporaryFile(dir=path.parent) as waiting, replaced_file(path, _PRIVATE) as file:
            for name in self.against:
                for one, pair in _found(name, self._sure(name)):
                    row = self._row(name, one, pair)
                    places.append((row["probability"], waiting.tell(), len(text := _line(row))))
                    waiting.write(text)
            for _, start, size in sorted(places):
                waiting.seek(start)
                file.write(waiting.read(size))
        logger.info(
            "%s: %d pairs whose label is right with a probability below %s%s",
            path,
            len(places),
            THRESHOLD,
            "; training pairs are missing, because not all of the first epoch was seen" if self.partial else "",
        )

    def _sure(self, name: str) -> Judged:
        """In the order of lines."""
        judged = self.against[name]
        # sigmoid(margin / T) < threshold, for all at once.
        limit = self.calibration.trusted * math.log(THRESHOLD / (1 - THRESHOLD))
        return np.sort(judged[judged["margin"] < limit], order=["line", "place"])

    def _row(self, name: str, judged: Any, pair: PreferencePair) -> dict[str, Any]:
        margin, epoch = float(judged["margin"]), float(judged["epoch"])
        return {
            "probability": self.calibration.probability(margin),
            # `margin` is what people said of a pair, and `label` too: the file can be read as a data set.
            "reward_margin": margin,
            "dataset": name,
            "line": pair.line,
            "source": pair.source,
            "category": pair.category,
            "prompt": [asdict(message) for message in pair.prompt],
            "chosen": pair.chosen,
            "rejected": pair.rejected,
            "margin": pair.margin,
            "label": pair.label,
            "epoch": None if math.isnan(epoch) else round(epoch, 4),
            "partial": self.partial,
        }


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _found(name: str, judged: Judged) -> Iterator[tuple[Any, PreferencePair]]:
    """Each of `judged`, in the order of lines, with its pair."""
    wanted = len(judged)
    for line, pairs in by_row(read_pairs(name, RowReport())) if wanted else ():
        while len(judged) and judged[0]["line"] == line:
            if (place := int(judged[0]["place"])) < len(pairs):
                wanted -= 1
                yield judged[0], pairs[place]
            judged = judged[1:]
        if not len(judged):
            break
    if wanted:
        logger.warning("%s was changed since it was read: %d pairs are no longer where they were", name, wanted)
