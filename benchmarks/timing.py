"""Candidates measured in turns, so that whatever else the machine does hits all of them alike.

Knows numbers and a clock: what a candidate measures, and in which unit, is its own business.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Sample:
    """What one candidate measured, round by round."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle of all rounds."""
        return median(self.values)

    @property
    def low(self) -> float:
        """The smallest of all rounds."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The largest of all rounds."""
        return max(self.values)


def alternate(candidates: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Sample]:
    """Measures every candidate once a round; in every other round in reverse, so that none always comes first.

    Args:
        candidates: by name; each call is one measurement.
        rounds: how many; one more comes first and does not count.
    """
    measured: dict[str, list[float]] = {name: [] for name in candidates}
    for measure in candidates.values():
        measure()
    for turn in range(rounds):
        names = list(candidates)
        for name in names if turn % 2 == 0 else reversed(names):
            measured[name].append(candidates[name]())
    return {name: Sample(tuple(values)) for name, values in measured.items()}


def seconds(run: Callable[[], object]) -> float:
    """How long it takes, by the wall clock."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
