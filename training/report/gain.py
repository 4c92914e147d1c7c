"""The best of N responses by the model's rewards, drawn. Knows what is gained, not how it is counted."""

from training.report.best_of import best_of
from training.report.figure import Figure, Missing, Table, interval, percent
from training.report.plot import Axis, Plot
from training.report.scale import Scale, share
from training.report.verdicts import Verdicts

_TITLE = "Best of N"


def best_of_figure(verdicts: Verdicts | None) -> Figure | Missing:
    """What the best of N is worth, with its ceiling."""
    found = best_of(verdicts.pairs) if verdicts else None
    if found is None:
        why = "the pairs come from no rankings of three or more responses." if verdicts else "no pair was scored."
        return Missing(_TITLE, why)
    sizes = range(1, len(found.worth) + 1)
    step = max(1, len(sizes) // 8)
    across = Scale(1.0, float(len(sizes)), tuple(float(n) for n in sizes[::step]))
    lowest = min(low for low, _ in found.intervals)
    plot = Plot(Axis(across, "N, responses to choose from"), Axis(share(lowest), "share of others below it"))
    plot.line([(1.0, 0.5), (float(len(sizes)), 0.5)], "quiet dashed")
    plot.line([(float(n), y) for n, y in zip(sizes, found.ceiling, strict=True)], "second")
    for n, bounds in zip(sizes, found.intervals, strict=True):
        plot.whisker(float(n), *bounds, "first")
    chosen = [(float(n), y) for n, y in zip(sizes, found.worth, strict=True)]
    plot.line(chosen, "first")
    plot.dots(chosen, "first")
    text = (
        f"Over {found.rankings:,} rankings of {len(sizes)} responses or more: of N drawn at random, the one with the"
        " highest reward, judged by the share of its ranking that people put below it (ties half)."
    )
    legend = [("first", "the model's choice, 95 % interval"), ("second", "people's choice"), ("quiet dashed", "any")]
    rows = [
        (str(n), percent(y), interval(bounds), percent(most))
        for n, y, bounds, most in zip(sizes, found.worth, found.intervals, found.ceiling, strict=True)
    ]
    table = Table(("N", "the model's choice", "95 % interval", "people's choice"), rows)
    return Figure(_TITLE, plot.svg("best-of", _TITLE, text), legend, text, table)
