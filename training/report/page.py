"""The report: one HTML file that needs nothing else, no scripts and no network. Knows what is shown where.

The same subject gives the same bytes.
"""

from importlib.resources import files
from itertools import starmap

from training.report.confidence import confidence_histogram, reliability_figure
from training.report.curves import accuracy_curve, loss_curve
from training.report.figure import decimal, interval, percent
from training.report.gain import best_of_figure
from training.report.groups import group_table
from training.report.markup import element, words
from training.report.origin import command, facts
from training.report.rewards import length_figure, reward_histograms
from training.report.subject import Disagreement, Subject


def page(subject: Subject) -> str:
    """The whole document."""
    style = (files("training.report") / "page.css").read_text("utf-8")
    title = f"Reward model report: {subject.name}"
    body = [
        element("h1", words(title)),
        element("p", words(subject.fingerprint), class_="about"),
        element("p", words(measured_on(subject))),
        element("dl", *starmap(_tile, tiles(subject)), class_="tiles"),
        *_figures(subject),
        *_disagreements(subject),
        *_origin(subject),
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"{element('title', words(title))}<style>{style}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n{element("body", element("main", *body))}</html>\n'


def measured_on(subject: Subject) -> str:
    """Which pairs the figures are of, in a sentence or two."""
    verdicts = subject.verdicts
    if verdicts is None:
        return (
            "No scores of held-out pairs are on record that belong to this calibration, so nothing is measured: name"
            " pairs with --dataset_name."
        )
    left = len(verdicts.pairs) - len(verdicts.scored)
    parts = [f"Measured on {len(verdicts.pairs):,} pairs of {verdicts.prompts:,} prompts: {verdicts.dataset.name}."]
    if subject.own:
        parts.append(
            "They were held out from training; the temperature is fitted on them, its errors are cross-fitted."
        )
    else:
        parts.append("Whether the model was trained on some of them is not known here.")
    if left:
        parts.append(f"Pairs that could not be scored, and count 0.5: {left:,}.")
    if subject.not_used:
        parts.append(f"Rows of the data set that could not be used: {subject.not_used:,}.")
    return " ".join(parts)


def tiles(subject: Subject) -> list[tuple[str, str, str]]:
    """The figures that count: name, value, and what to know about it."""
    verdicts, calibration = subject.verdicts, subject.calibration
    found = []
    if verdicts:
        accuracy = verdicts.accuracy
        found += [
            (
                "accuracy",
                percent(accuracy.accuracy),
                f"95 % interval {interval(accuracy.accuracy_interval)}, by prompt",
            ),
            ("pairs", f"{accuracy.n:,}", f"on {verdicts.prompts:,} prompts"),
            ("longer one wins", percent(verdicts.longer_wins), "accuracy without reading"),
        ]
    if errors := subject.calibration_errors:
        found.append(("calibration error", f"{errors[1]:.3f}", f"ECE; {errors[0]:.3f} before calibration"))
    doubt = calibration.reason or f"fitted on {calibration.pairs:,} held-out pairs"
    shown = f"{calibration.temperature:.3g}"
    found.append(("temperature", shown if calibration.calibrated else "not calibrated", doubt))
    if subject.manifest and subject.manifest.reward:
        reward = subject.manifest.reward
        found.append(("mean reward", decimal(reward.mean, 2), f"standard deviation {decimal(reward.std, 2)}"))
    return found


def _tile(name: str, value: str, more: str) -> str:
    return element(
        "div",
        element("dt", words(name)),
        element("dd", words(value)),
        element("dd", words(more), class_="more"),
        class_="tile",
    )


def _figures(subject: Subject) -> list[str]:
    verdicts, temperature = subject.verdicts, subject.calibration.trusted
    objective = str(subject.record.get("flags", {}).get("loss_type", "bradley_terry"))
    course = (loss_curve(subject.log, objective), accuracy_curve(subject.log))
    probabilities = (reliability_figure(verdicts, temperature), confidence_histogram(verdicts, temperature))
    rewards = (reward_histograms(verdicts), length_figure(verdicts), best_of_figure(verdicts))
    sections = (("Training", course), ("Probabilities", probabilities), ("Rewards", rewards))
    return [
        part
        for title, figures in sections
        for part in (element("h2", title), element("div", *(one.html() for one in figures), class_="figures"))
    ] + [
        element("h2", "Where it is right"),
        element(
            "div",
            group_table(verdicts, "category", lambda one: one.category),
            group_table(verdicts, "source", lambda one: one.source),
            class_="figures",
        ),
    ]


def _disagreements(subject: Subject) -> list[str]:
    if not subject.disagreements:
        return []
    intro = "The pairs that the model is surest are labelled the wrong way round, the surest first."
    return [element("h2", "Disagreements"), element("p", intro, class_="note"), *map(_pair, subject.disagreements)]


def _pair(one: Disagreement) -> str:
    head = f"Line {one.line}: the label is right with probability {one.probability:.3f}"
    turns = [(f"{turn.role} (prompt)", turn.content, "") for turn in one.prompt]
    sides = [
        (f"chosen, reward {decimal(one.rewards[0])}", one.chosen, " first"),
        (f"rejected, reward {decimal(one.rewards[1])}", one.rejected, " second"),
    ]
    texts = (
        element("h4", words(name)) + element("div", words(text), class_=f"text{style}", tabindex="0", dir="auto")
        for name, text, style in turns + sides
    )
    return element("article", element("h3", words(head)), *texts, class_="pair")


def _origin(subject: Subject) -> list[str]:
    line, known = command(subject), facts(subject)
    if not known:
        return [
            element("h2", "To make it again"),
            element("p", "The checkpoint does not say how it was made.", class_="missing"),
        ]
    rows = (element("tr", element("th", words(name), scope="row"), element("td", words(text))) for name, text in known)
    shown = (
        element("pre", words(line)) if line else element("p", "The command line is not on record.", class_="missing")
    )
    table = element("table", element("tbody", *rows), class_="facts")
    return [element("h2", "To make it again"), shown, table]
