"""HTML and SVG as text: elements, numbers, and words that are never read as markup.

Knows the syntax, not what is shown.
"""

import math
from html import escape

#: What has no shape of its own, would end a document or turn the direction of what follows; shown as a picture.
_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
_PICTURES |= dict.fromkeys([*range(0x80, 0xA0), 0xFFFE, 0xFFFF, *range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD)


def element(tag: str, *content: str, **attributes: str | float) -> str:
    """An element with `content`, which is markup already; `_` in names stands for `-`, a trailing one for nothing.

    Raises:
        ValueError: an attribute is a number that cannot be drawn.
    """
    named = "".join(f' {name.rstrip("_").replace("_", "-")}="{_value(value)}"' for name, value in attributes.items())
    return f"<{tag}{named}>{''.join(content)}</{tag}>"


def words(text: str) -> str:
    """`text` as it reads, whatever is in it."""
    return escape(text.translate(_PICTURES))


def number(value: float) -> str:
    """A coordinate to a hundredth of a unit.

    Raises:
        ValueError: it is not finite.
    """
    if not math.isfinite(value):
        msg = f"{value} has no place on paper"
        raise ValueError(msg)
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")


def _value(value: str | float) -> str:
    return words(value) if isinstance(value, str) else number(value)
