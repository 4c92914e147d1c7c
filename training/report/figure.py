"""A figure on the page: drawing, legend, what it says in words, and its numbers as a table for who cannot see it.

Knows the page's form, not what is shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from training.report.markup import element, words


@dataclass(frozen=True, slots=True)
class Table:
    """Text in rows; all columns but the first are numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def html(self) -> str:
        """As an element that scrolls where it is wider than the page."""
        head = element("tr", *(element("th", words(text), scope="col") for text in self.head))
        rows = (
            element("tr", element("th", words(first), scope="row"), *(element("td", words(text)) for text in rest))
            for first, *rest in self.rows
        )
        table = element("table", element("thead", head), element("tbody", *rows))
        return element("div", table, class_="wide")


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing and what belongs to it.

    Attributes:
        title: what is shown.
        drawing: markup.
        legend: classes of the page's style and what they stand for.
        text: what there is to see, in words.
        table: the numbers.
    """

    title: str
    drawing: str
    legend: Sequence[tuple[str, str]]
    text: str
    table: Table

    def html(self) -> str:
        """As an element."""
        keys = [element("span", element("i", class_=style), words(name)) for style, name in self.legend]
        numbers = element("details", element("summary", "The numbers"), self.table.html())
        legend = [element("div", *keys, class_="legend")] if keys else []
        caption = element("figcaption", element("p", words(self.text)), numbers)
        return element("figure", element("h3", words(self.title)), *legend, self.drawing, caption)


@dataclass(frozen=True, slots=True)
class Missing:
    """A figure that there is no data for, and why."""

    title: str
    why: str

    def html(self) -> str:
        """As an element."""
        return element("p", element("strong", words(self.title)), words(f": {self.why}"), class_="missing")


def percent(share: float) -> str:
    """With one decimal."""
    return f"{share:.1%}".replace("%", "\N{NO-BREAK SPACE}%")


def decimal(value: float, digits: int = 3, sign: str = "") -> str:
    """With so many decimals."""
    return f"{value:{sign}.{digits}f}".replace("-", "\N{MINUS SIGN}")


def interval(bounds: tuple[float, float]) -> str:
    """A 95 % interval of shares."""
    low, high = bounds
    return f"{100 * low:.1f} to {percent(high)}"
