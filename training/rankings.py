"""One raw row that ranks several responses to one prompt, as the pairs it stands for.

    {"prompt": ..., "responses": ["a", "b", "c"], "ranks": [2, 1, 3]}      1 is the best; equal ranks are ties
    {"prompt": ..., "responses": ["a", "b", "c"], "scores": [7, 9.5, 2]}   the higher the better

All pairs of K responses belong together: learned from one by one they are overfitted (Ouyang et al. 2022, arXiv
2203.02155, section 3.5). Pure functions of one row: knows neither files nor tokens.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from training.pairs import (
    IDENTICAL,
    MALFORMED,
    BadRow,
    PreferencePair,
    check_renderable,
    label_of,
    response_of,
    to_pair,
    turns_of,
)

RESPONSES = "responses"
_RANKS, _SCORES = "ranks", "scores"
#: What may be said of two responses, and not of more.
_OF_PAIRS = ("margin", "label")
_TIE = 0.5


def to_pairs(row: Any, line: int) -> tuple[PreferencePair, ...]:
    """The pairs of a row: one of a preference, K (K - 1) / 2 of a ranking of K, the better response always `chosen`.

    Raises:
        BadRow: it is neither a preference nor a ranking that can be used.
    """
    if not isinstance(row, Mapping) or RESPONSES not in row or row.get("chosen") is not None:
        return (to_pair(row, line),)
    check_renderable(row)
    for column in _OF_PAIRS:
        if row.get(column) is not None:
            msg = f"`{column}` has no meaning beside `responses`: it is for `chosen` and `rejected`"
            raise BadRow(MALFORMED, msg)
    prompt = turns_of(row.get("prompt"), "prompt")
    responses = _responses(row[RESPONSES])
    quality = quality_of(row, len(responses))
    source, category, subset = (label_of(row, column) for column in ("source", "category", "subset"))

    def pair(a: int, b: int) -> PreferencePair:
        better, worse = (a, b) if quality[a] >= quality[b] else (b, a)
        label = _TIE if quality[a] == quality[b] else 1.0
        return PreferencePair(prompt, responses[better], responses[worse], None, source, category, line, subset, label)

    return tuple(pair(a, b) for a, b in combinations(range(len(responses)), 2))


def _responses(value: Any) -> list[str]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) < 2:
        msg = "`responses` must be a list of two or more"
        raise BadRow(MALFORMED, msg)
    texts = [response_of(one, f"responses[{i}]") for i, one in enumerate(value)]
    seen: dict[str, int] = {}
    for i, text in enumerate(texts):
        if (first := seen.setdefault(text, i)) != i:
            msg = f"responses {first} and {i} are the same"
            raise BadRow(IDENTICAL, msg)
    return texts


def quality_of(row: Mapping[str, Any], n: int) -> list[float]:
    """The higher the better."""
    given = [name for name in (_RANKS, _SCORES) if row.get(name) is not None]
    if len(given) != 1:
        msg = (
            f"a row with `responses` needs `ranks` or `scores`, one of them; it has {' and '.join(given) or 'neither'}"
        )
        raise BadRow(MALFORMED, msg)
    (name,) = given
    values = row[name]
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != n or not all(map(_number, values)):
        msg = f"`{name}` must be {n} finite numbers, one for each response"
        raise BadRow(MALFORMED, msg)
    return [-float(value) if name == _RANKS else float(value) for value in values]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
