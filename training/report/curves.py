"""Loss and accuracy over a training run. Knows the log, not the trainer."""

import math
from collections.abc import Sequence
from statistics import fmean

from training.report.figure import Figure, Missing, Table
from training.report.log import LOG_FILE, TrainingLog
from training.report.plot import Axis, Plot, Point
from training.report.scale import linear

#: More points than these cannot be told apart; neighbours are averaged.
_DRAWN = 400
_LISTED = 40
_NO_LOG = "no log of a training run lies beside the checkpoint."


def loss_curve(log: TrainingLog | None, objective: str) -> Figure | Missing:
    """The loss that was minimised, named `objective`, and the negative log-likelihood of the held-out pairs."""
    # Only Bradley-Terry is in the unit of the held-out loss; another one beside it would be read against it.
    comparable = objective == "bradley_terry"
    held_out = log.series("eval_loss") if log else []
    text = (
        "Training loss as logged, a mean over the steps since the last point, and its moving average."
        if comparable
        else f"The objective is {objective}, whose scale is not that of the held-out loss: that is in the table only."
    )
    meant = "Held out: mean negative log-likelihood of the preferences, in nats; guessing gives 0.693."
    return _curve("loss", "Loss", log, held_out, f"{text} {meant}" if held_out else text, drawn=comparable)


def accuracy_curve(log: TrainingLog | None) -> Figure | Missing:
    """How often the chosen response had the higher reward."""
    held_out = log.series("eval_accuracy") if log else []
    text = (
        "Share of pairs whose chosen response had the higher reward: of training pairs at the moment they were"
        " learned from, and of held-out pairs; guessing gives 0.5."
    )
    return _curve("accuracy", "Accuracy", log, held_out, text, drawn=True)


def _curve(
    name: str, title: str, log: TrainingLog | None, held_out: list[Point], text: str, *, drawn: bool
) -> Figure | Missing:
    heading = f"{title} over training"
    if log is None:
        return Missing(heading, _NO_LOG)
    train = log.series(name)
    shown = train + (held_out if drawn else [])
    if len(shown) < 2:
        return Missing(heading, f"{name} was logged {len(shown)} times; see --logging_steps and --eval_strategy.")
    plot = Plot(Axis(linear([0.0, *(x for x, _ in shown)]), "step"), Axis(linear([y for _, y in shown]), name))
    legend = []
    if train:
        plot.line(_thinned(train), "first pale")
        plot.line(_thinned(smoothed(train)), "first")
        legend += [("first pale", "training"), ("first", "moving average")]
    if held_out and drawn:
        plot.line(held_out, "second")
        plot.dots(held_out, "second")
        legend.append(("second", "held out"))
    return Figure(heading, plot.svg(f"{name}-curve", heading, text), legend, text, _table(name, train, held_out))


def smoothed(points: Sequence[Point]) -> list[Point]:
    """A moving average over a tenth of the points around each, five or more; of fewer at the ends."""
    reach = max(2, len(points) // 20)
    return [(x, fmean(y for _, y in points[max(0, i - reach) : i + reach + 1])) for i, (x, _) in enumerate(points)]


def _thinned(points: Sequence[Point]) -> list[Point]:
    size = math.ceil(len(points) / _DRAWN)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(fmean(x for x, _ in those), fmean(y for _, y in those)) for those in groups]


def _table(name: str, train: Sequence[Point], held_out: Sequence[Point]) -> Table:
    every = math.ceil(len(train) / _LISTED) if train else 1
    listed = {*train[::every], *train[-1:]}
    values = {x: [f"{y:.4f}", ""] for x, y in sorted(listed)}
    for x, y in held_out:
        values.setdefault(x, ["", ""])[1] = f"{y:.4f}"
    first = f"step (one in {every}; all are in {LOG_FILE})" if every > 1 else "step"
    head = (first, f"training {name}", f"held-out {name}")
    return Table(head, [(f"{x:,.0f}", *both) for x, both in sorted(values.items())])
