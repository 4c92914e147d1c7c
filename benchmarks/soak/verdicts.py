"""What a run must show, what it showed, and whether that is enough: printed with hardware and command.

Knows figures, not where they come from.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median

from benchmarks import machine

#: Share of all samples that stand for a point in time.
WINDOW = 10
PROGRESS_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """One question of a run.

    Attributes:
        name: what must hold.
        seen: what was seen instead, or that it holds.
    """

    name: str
    holds: bool
    seen: str

    def line(self) -> str:
        """All of it."""
        return f"{'ok  ' if self.holds else 'FAIL'}  {self.name}: {self.seen}"


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory over a run.

    Attributes:
        samples: (part of the run that is done, between 0 and 1; bytes), in order.
    """

    samples: Sequence[tuple[float, int]]

    def verdict(self, limit: float) -> Verdict:
        """Whether memory is steady from the middle on.

        The median of the samples of the last tenth of the run, against that of the tenth that follows the middle: a
        single sample may lie anywhere, as buffers come and go.
        """
        middle, end = self._level(0.5), self._level(1 - 1 / WINDOW)
        growth = end / middle - 1
        seen = f"{middle / 2**20:.1f} MiB in the middle, {end / 2**20:.1f} MiB at the end, {100 * growth:+.2f} %"
        return Verdict(f"resident memory grows by less than {100 * limit:g} % from the middle on", growth < limit, seen)

    def _level(self, start: float) -> float:
        sizes = [size for done, size in self.samples if done >= start] or [self.samples[-1][1]]
        return median(sizes[: -(-len(self.samples) // WINDOW)])


def report(title: str, verdicts: Sequence[Verdict], counts: dict[str, object]) -> bool:
    """Prints a run; returns whether all holds."""
    print(f"# {title}\n")
    print("\n".join(f"{name}: {value}" for name, value in (machine.describe() | counts).items()))
    print("\n" + "\n".join(verdict.line() for verdict in verdicts), flush=True)
    return all(verdict.holds for verdict in verdicts)


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that shows `description` as it is written."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


async def tell_progress(line: Callable[[], str]) -> None:
    """Prints `line()` to stderr every ten seconds, until cancelled."""
    started = time.monotonic()
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        print(f"{time.monotonic() - started:6.0f} s  {line()}", file=sys.stderr, flush=True)


async def stop(*watchers: "asyncio.Task[None]") -> None:
    """Ends tasks that run until they are stopped; one that has failed fails here."""
    for watcher in watchers:
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher
