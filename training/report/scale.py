"""From numbers to places on paper: where a value lies, which values are marked, and how they are written.

Knows numbers only.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

#: Marks stand at these multiples of a power of ten.
_MULTIPLES = (1, 2, 5)


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis' range, with round ends.

    Attributes:
        low, high: its ends, low < high.
        ticks: the values that are marked, from `low` to `high`.
        logarithmic: equal ratios take equal room.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where `value` lies, 0 at the low end and 1 at the high one; beyond them it is put at the nearer one."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return (at - low) / (high - low)


def linear(values: Iterable[float], wanted: int = 5) -> Scale:
    """A scale that holds all `values` (one or more, finite), with about `wanted` marks at round numbers."""
    known = list(values)
    low, high = min(known), max(known)
    if not high - low > 1e-9 * max(abs(low), abs(high)):
        room = abs(low) / 10 or 1.0
        low, high = low - room, high + room
    step = _step((high - low) / wanted)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(i * step for i in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], ticks)


def share(low: float, high: float = 1.0) -> Scale:
    """A scale of shares: from the tenth below `low`, 0.5 at the most, to the tenth above `high`."""
    start = max(0, min(5, math.floor(10 * low + 1e-9)))
    end = min(10, max(start + 1, math.ceil(10 * high - 1e-9)))
    if end - start > 5:
        start, end = start - start % 2, end + end % 2
    step = {1: 2, 2: 5}.get(end - start, 10 if end - start <= 5 else 20)
    ticks = tuple(i / 100 for i in range(10 * start, 10 * end + 1, step))
    return Scale(ticks[0], ticks[-1], ticks)


def logarithmic(values: Iterable[float], most: int = 7) -> Scale:
    """The same for positive values, with marks at 1, 2 and 5 times powers of ten, `most` at the most."""
    known = list(values)
    low, high = min(known), max(known)
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    marks = [m * 10.0**e for e in exponents for m in _MULTIPLES]
    first = max(i for i, mark in enumerate(marks) if mark <= low * (1 + 1e-9))
    last = max(first + 1, min(i for i, mark in enumerate(marks) if mark >= high * (1 - 1e-9)))
    inside = marks[first : last + 1]
    ticks = inside if len(inside) <= most else [mark for mark in inside if _is_power(mark)]
    return Scale(inside[0], inside[-1], tuple(ticks), logarithmic=True)


def written(value: float, step: float) -> str:
    """`value` with as many decimals as tell it from its neighbours `step` away."""
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step < 1 else 0
    return f"{value + 0.0:,.{decimals}f}".replace("-", "\N{MINUS SIGN}") if abs(value) > step / 2 else "0"


def labels(scale: Scale) -> list[str]:
    """How the marks of a scale are written."""
    if scale.logarithmic:
        return [written(tick, tick) for tick in scale.ticks]
    step = scale.ticks[1] - scale.ticks[0]
    return [written(tick, step) for tick in scale.ticks]


def _step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(m * power for m in (*_MULTIPLES, 10) if m * power >= least * (1 - 1e-9))


def _is_power(mark: float) -> bool:
    exponent = math.log10(mark)
    return abs(exponent - round(exponent)) < 1e-9
