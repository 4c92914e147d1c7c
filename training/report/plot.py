"""One plot: two axes and what is drawn between them, as an SVG that its page gives colours to.

Sized so that its letters are about as large as those around it where it is 350 to 500 pixels wide. Knows scales and
shapes, not what they stand for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from training.report.markup import element, number, words
from training.report.scale import Scale, labels

WIDTH = 360.0
#: Of a digit, at most, in the size of the page's style and a wide font.
_LETTER = 6.9
_TOP, _BOTTOM = 26.0, 42.0

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale with its name."""

    scale: Scale
    title: str


@dataclass(slots=True)
class Plot:
    """Shapes in the units of two axes; `style` is a class of the page's style, such as "first" or "second".

    Attributes:
        x, y: the axes.
        height: of the whole, in units of which `WIDTH` is the width.
    """

    x: Axis
    y: Axis
    height: float = 230.0
    _shapes: list[str] = field(default_factory=list)

    @property
    def _left(self) -> float:
        return 8 + _LETTER * max(map(len, labels(self.y.scale)))

    def _x(self, value: float) -> float:
        right = WIDTH - max(10.0, _LETTER * len(labels(self.x.scale)[-1]) / 2)
        return self._left + (right - self._left) * self.x.scale.place(value)

    def _y(self, value: float) -> float:
        bottom = self.height - _BOTTOM
        return bottom + (_TOP - bottom) * self.y.scale.place(value)

    def line(self, points: Sequence[Point], style: str) -> None:
        """A line through `points`."""
        self._shapes.append(element("polyline", points=self._path(points), class_=f"line {style}"))

    def area(self, points: Sequence[Point], style: str) -> None:
        """What lies between a line and the lower edge."""
        low = self.y.scale.low
        closed = [(points[0][0], low), *points, (points[-1][0], low)]
        self._shapes.append(element("polygon", points=self._path(closed), class_=f"area {style}"))

    def dots(self, points: Iterable[Point], style: str, radius: float = 3.5) -> None:
        """A dot at each of `points`."""
        self._shapes += [
            element("circle", cx=self._x(x), cy=self._y(y), r=radius, class_=f"dot {style}") for x, y in points
        ]

    def whisker(self, x: float, low: float, high: float, style: str) -> None:
        """An upright interval."""
        ends = {"x1": self._x(x), "x2": self._x(x), "y1": self._y(low), "y2": self._y(high)}
        self._shapes.append(element("line", class_=f"line {style}", **ends))

    def box(self, low: Point, high: Point, style: str, opacity: float = 1.0) -> None:
        """A rectangle between two corners."""
        left, right, top, bottom = self._x(low[0]), self._x(high[0]), self._y(high[1]), self._y(low[1])
        place = {"x": left, "y": top, "width": right - left, "height": bottom - top}
        self._shapes.append(element("rect", class_=f"box {style}", fill_opacity=opacity, **place))

    def svg(self, name: str, title: str, description: str) -> str:
        """The whole; `name` is unique on its page."""
        about = [
            element("title", words(title), id=f"{name}-title"),
            element("desc", words(description), id=f"{name}-desc"),
        ]
        return element(
            "svg",
            *about,
            *self._grid(),
            *self._shapes,
            viewBox=f"0 0 {number(WIDTH)} {number(self.height)}",
            role="img",
            aria_labelledby=f"{name}-title {name}-desc",
        )

    def _path(self, points: Iterable[Point]) -> str:
        return " ".join(f"{number(self._x(x))},{number(self._y(y))}" for x, y in points)

    def _grid(self) -> list[str]:
        (x0, x1), (y0, y1) = ((axis.scale.low, axis.scale.high) for axis in (self.x, self.y))
        left, right, bottom, top = self._x(x0), self._x(x1), self._y(y0), self._y(y1)
        parts = [
            _text(self.y.title, 0, 12, "start"),
            _text(self.x.title, (left + right) / 2, self.height - 4, "middle"),
        ]
        for tick, label in zip(self.y.scale.ticks, labels(self.y.scale), strict=True):
            parts.append(element("line", x1=left, x2=right, y1=self._y(tick), y2=self._y(tick), class_="grid"))
            parts.append(_text(label, left - 6, self._y(tick) + 4, "end"))
        for tick, label in zip(self.x.scale.ticks, labels(self.x.scale), strict=True):
            parts.append(element("line", x1=self._x(tick), x2=self._x(tick), y1=bottom, y2=bottom + 4, class_="grid"))
            parts.append(_text(label, self._x(tick), bottom + 19, "middle"))
        assert top < bottom
        return parts


def _text(text: str, x: float, y: float, anchor: str) -> str:
    return element("text", words(text), x=x, y=y, text_anchor=anchor)
