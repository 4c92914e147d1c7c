"""The reliability diagram, and how sure the model is how often. Knows bins, not models."""

from training.report.figure import Figure, Missing, Table, interval, percent
from training.report.plot import Axis, Plot
from training.report.reliability import Bin, confidence, reliability
from training.report.scale import linear, share
from training.report.verdicts import Verdicts

_TITLE = "Reliability"
_HISTOGRAM = "How sure the model is"
_NARROW = 20
_SURE = "predicted probability of the winner"
_NO_SCORES = "no pair was scored."


def reliability_figure(verdicts: Verdicts | None, temperature: float) -> Figure | Missing:
    """Confidence against agreement in ten bins of equal mass, at `temperature` and, if that is not 1, without it."""
    scored = verdicts.scored if verdicts else ()
    if not scored:
        return Missing(_TITLE, _NO_SCORES)
    bins = reliability(scored, temperature)
    plain = reliability(scored, 1.0) if temperature != 1 else []
    heights = [y for one in bins for y in one.interval] + [one.agreement for one in plain]
    across = share(0.5, max(one.confidence for one in bins + plain))
    plot = Plot(Axis(across, _SURE), Axis(share(min(heights)), "came true"), 250)
    plot.line([(0.5, 0.5), (across.high, across.high)], "quiet dashed")
    plot.dots([(one.confidence, one.agreement) for one in plain], "second hollow")
    for one in bins:
        plot.whisker(one.confidence, *one.interval, "first")
    plot.line([(one.confidence, one.agreement) for one in bins], "first pale")
    plot.dots([(one.confidence, one.agreement) for one in bins], "first")
    legend = [("first", f"temperature {temperature:.3g}, 95 % interval"), ("quiet dashed", "perfect")]
    if plain:
        legend.insert(1, ("second hollow", "temperature 1"))
    text = (
        f"{len(bins)} bins with as many pairs each, from the least to the most confident."
        " Below the diagonal the model is surer than it should be, above it less sure."
    )
    drawing = plot.svg("reliability", _TITLE, text)
    return Figure(_TITLE, drawing, legend, text, _table(bins))


def confidence_histogram(verdicts: Verdicts | None, temperature: float) -> Figure | Missing:
    """How many pairs the model is how sure of, in twenty bins of equal width."""
    scored = verdicts.scored if verdicts else ()
    if not scored:
        return Missing(_HISTOGRAM, _NO_SCORES)
    confidences = [confidence(one, temperature) for one in scored]
    across, counts = share(0.5, max(confidences)), [0] * _NARROW
    for one in confidences:
        counts[min(_NARROW - 1, int(across.place(one) * _NARROW))] += 1
    edges = [0.5 + (across.high - 0.5) * i / _NARROW for i in range(_NARROW + 1)]
    plot = Plot(Axis(across, _SURE), Axis(linear([0, *counts]), "pairs"), 250)
    for low, high, n in zip(edges, edges[1:], counts, strict=False):
        if n:
            plot.box((low, 0), (high, n), "first")
    sure = sum(one >= 0.9 for one in confidences)
    text = (
        f"Of {len(scored):,} pairs the model gives {sure:,} ({percent(sure / len(scored))}) a probability"
        " of 0.9 or more, whoever is right."
    )
    rows = [(f"{low:.3f} to {high:.3f}", f"{n:,}") for low, high, n in zip(edges, edges[1:], counts, strict=False)]
    return Figure(_HISTOGRAM, plot.svg("confidence", _HISTOGRAM, text), [], text, Table(("probability", "pairs"), rows))


def _table(bins: list[Bin]) -> Table:
    rows = [
        (
            f"{one.low:.3f} to {one.high:.3f}",
            f"{one.n:,}",
            percent(one.confidence),
            percent(one.agreement),
            interval(one.interval),
        )
        for one in bins
    ]
    return Table(("probability", "pairs", "mean", "came true", "95 % interval"), rows)
