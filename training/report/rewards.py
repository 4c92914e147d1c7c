"""How rewards are distributed, and how they go with length. Knows verdicts, not models."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from statistics import fmean, median, pstdev

from training.report.figure import Figure, Missing, Table, decimal, percent
from training.report.plot import Axis, Plot, Point
from training.report.scale import linear, logarithmic
from training.report.verdicts import Verdicts

_TITLE = "Rewards of chosen and rejected responses"
_LENGTH = "Reward against length"
_BINS = 30
#: More points than these hide each other, and are drawn as a density.
_POINTS = 600
_COLUMNS, _ROWS = 36, 24
_GROUPS = 10
_NO_SCORES = "no pair was scored."


def reward_histograms(verdicts: Verdicts | None) -> Figure | Missing:
    """Chosen and rejected side by side over the same bins."""
    rewards = [one.rewards for one in verdicts.pairs if one.rewards] if verdicts else []
    if not rewards:
        return Missing(_TITLE, _NO_SCORES)
    chosen, rejected = ([both[side] for both in rewards] for side in (0, 1))
    scale = linear([*chosen, *rejected], wanted=6)
    edges = [scale.low + (scale.high - scale.low) * i / _BINS for i in range(_BINS + 1)]
    counts = [_counted(side, edges) for side in (chosen, rejected)]
    plot = Plot(Axis(scale, "reward"), Axis(linear([0, *counts[0], *counts[1]]), "responses"))
    for heights, style in zip(counts, ("first", "second"), strict=True):
        steps = [
            point for low, high, n in zip(edges, edges[1:], heights, strict=False) for point in ((low, n), (high, n))
        ]
        plot.area(steps, style)
        plot.line([(scale.low, 0), *steps, (scale.high, 0)], style)
    text = (
        f"Chosen: mean {decimal(fmean(chosen))}, standard deviation {pstdev(chosen):.3f}."
        f" Rejected: {decimal(fmean(rejected))} and {pstdev(rejected):.3f}. Only differences within a prompt mean"
        " something: the two may overlap far and yet be told apart pair by pair."
    )
    rows = [
        (f"{decimal(low)} to {decimal(high)}", f"{a:,}", f"{b:,}")
        for low, high, a, b in zip(edges, edges[1:], *counts, strict=False)
    ]
    legend = [("first", "chosen"), ("second", "rejected")]
    return Figure(
        _TITLE, plot.svg("rewards", _TITLE, text), legend, text, Table(("reward", "chosen", "rejected"), rows)
    )


def length_figure(verdicts: Verdicts | None) -> Figure | Missing:
    """Every response as a point, or as a density where there are many, and the median reward along the lengths."""
    points = [
        (float(max(1, length)), reward)
        for one in (verdicts.pairs if verdicts else ())
        for length, reward in zip(one.lengths, one.rewards or (), strict=False)
    ]
    if verdicts is None or not points:
        return Missing(_LENGTH, _NO_SCORES)
    unit = verdicts.unit
    plot = Plot(
        Axis(logarithmic([x for x, _ in points]), f"{unit} in the response"),
        Axis(linear([y for _, y in points]), "reward"),
    )
    if len(points) > _POINTS:
        _density(plot, points)
    else:
        plot.dots(points, "first faint", 2.2)
    groups = _along(points)
    plot.line(groups, "second")
    plot.dots(groups, "second", 2.5)
    both, shares = verdicts.length_correlation, verdicts.longer_wins
    text = (
        f"Correlation of reward and length: Pearson {_signed(both.pearson)}, Spearman {_signed(both.spearman)}."
        f" Preferring the longer response, without reading, would be right in {percent(shares)} of the pairs."
    )
    legend = [
        ("first box", "responses" if len(points) <= _POINTS else "responses (stronger: more)"),
        ("second", "median"),
    ]
    rows = [(f"{x:,.0f}", decimal(y)) for x, y in groups]
    table = Table((f"median {unit}, in {len(groups)} groups of about equal size", "median reward"), rows)
    return Figure(_LENGTH, plot.svg("length", _LENGTH, text), legend, text, table)


def _counted(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    counts = [0] * _BINS
    for value in values:
        counts[min(_BINS - 1, int((value - edges[0]) / (edges[-1] - edges[0]) * _BINS))] += 1
    return counts


def _density(plot: Plot, points: Sequence[Point]) -> None:
    x, y = plot.x.scale, plot.y.scale
    cells = Counter(
        (min(_COLUMNS - 1, int(x.place(a) * _COLUMNS)), min(_ROWS - 1, int(y.place(b) * _ROWS))) for a, b in points
    )
    fullest = math.log1p(max(cells.values()))
    ratio, height = (x.high / x.low) ** (1 / _COLUMNS), (y.high - y.low) / _ROWS
    for (column, row), n in sorted(cells.items()):
        low = (x.low * ratio**column, y.low + height * row)
        plot.box(low, (low[0] * ratio, low[1] + height), "first", 0.12 + 0.88 * math.log1p(n) / fullest)


def _along(points: Sequence[Point]) -> list[Point]:
    """Median length and reward of groups of about equal size, by length; points of one length stay together."""
    groups: list[list[Point]] = [[]]
    for _, same in groupby(sorted(points), key=lambda point: point[0]):
        if len(groups[-1]) >= len(points) / _GROUPS:
            groups.append([])
        groups[-1] += same
    return [(median(x for x, _ in group), median(y for _, y in group)) for group in groups]


def _signed(value: float | None) -> str:
    return "undefined" if value is None else decimal(value, sign="+")
