"""Accuracy by label of the data set: a row for each, with its interval drawn. Knows verdicts, not models."""

import re
from collections.abc import Callable, Mapping

from training.report.figure import Missing, interval, percent
from training.report.markup import element, words
from training.report.verdicts import Verdict, Verdicts
from training.statistics import Accuracy

#: More rows than these are no longer read; the labels with the most pairs are shown, and what is not is said.
_ROWS = 40
_WIDTH, _HEIGHT, _ROOM = 160.0, 18.0, 6.0


def group_table(verdicts: Verdicts | None, name: str, label: Callable[[Verdict], str | None]) -> str:
    """Markup: a table by the label `name`, or why there is none."""
    title = f"Accuracy by {name}"
    members = verdicts.by(label) if verdicts else {}
    if not members:
        why = f"no pair has a {name}." if verdicts else "no pair was scored."
        return Missing(title, why).html()
    shown = _largest(members)
    texts = (words(name), "pairs", "accuracy" + element("span", ", 95 % interval", class_="more"), _axis())
    head = element("tr", *(element("th", text, scope="col") for text in texts))
    rows = (_row(key, one) for key, one in shown.items())
    table = element("table", element("thead", head), element("tbody", *rows), class_="drawn")
    left_out = len(members) - len(shown)
    note = element("p", f"{left_out:,} more with fewer pairs are not shown.", class_="note") if left_out else ""
    return element("section", element("h3", words(title)), element("div", table, class_="wide"), note, class_="group")


def _largest(members: Mapping[str, Accuracy]) -> dict[str, Accuracy]:
    largest = set(sorted(members, key=lambda key: -members[key].n)[:_ROWS])
    return {key: one for key, one in members.items() if key in largest}


def _row(key: str, one: Accuracy) -> str:
    bounds = element("span", f" ({interval(one.accuracy_interval)})", class_="more")
    # Names are long and have no spaces: they may be broken where their parts meet.
    name = re.sub(r"(?<=\w[_/.-])(?=\w)", "<wbr>", words(key))
    cells = (f"{one.n:,}", percent(one.accuracy) + bounds, _strip(one))
    return element("tr", element("th", name, scope="row"), *(element("td", text) for text in cells))


def _place(value: float) -> float:
    return _ROOM + (_WIDTH - 2 * _ROOM) * value


def _strip(one: Accuracy) -> str:
    middle = _HEIGHT / 2
    low, high = map(_place, one.accuracy_interval)
    return element(
        "svg",
        *(element("line", x1=_place(x), x2=_place(x), y1=0, y2=_HEIGHT, class_="grid") for x in (0, 1)),
        element("line", x1=_place(0.5), x2=_place(0.5), y1=0, y2=_HEIGHT, class_="line quiet dashed"),
        element("line", x1=low, x2=high, y1=middle, y2=middle, class_="line first"),
        element("circle", cx=_place(one.accuracy), cy=middle, r=3.5, class_="dot first"),
        viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        role="img",
        aria_label=f"{percent(one.accuracy)}, interval {interval(one.accuracy_interval)}",
    )


def _axis() -> str:
    ends = ((0.0, "0", "start"), (0.5, "50 %", "middle"), (1.0, "100 %", "end"))
    marks = (
        element("text", text, x={"start": 0.0, "end": _WIDTH}.get(anchor, _place(x)), y=13, text_anchor=anchor)
        for x, text, anchor in ends
    )
    return element("svg", *marks, viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}", role="img", aria_label="axis from 0 to 100 %")
