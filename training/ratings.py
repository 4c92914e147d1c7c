"""Responses that were rated on several attributes, each on its own: the data of HelpSteer and its like.

    {"prompt": ..., "response": ..., "helpfulness": 3, "verbosity": 1, ...}

Knows rows and rendering, not models.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from typing import Any

from tqdm import tqdm

from reward_model.records import Prompt
from reward_model.rendering import Rendered, Renderer
from reward_model.scores import Scalarisation
from training.data import RowReport, none_usable
from training.examples import Comparison, Example, prompt_digest, prompt_tokens, render_responses
from training.fingerprint import Fingerprint
from training.pairs import MALFORMED, BadRow, check_renderable, columns_of, response_of, turns_of, without_text
from training.progress import hidden
from training.rows import read_rows


@dataclass(frozen=True, slots=True)
class RatedResponse:
    """One response and what people gave it.

    Attributes:
        prompt: the turns before the response.
        response: the text.
        ratings: one number for each attribute, NaN where it was not rated.
        line: where it stands in its file, counted from 1.
    """

    prompt: Prompt
    response: str
    ratings: tuple[float, ...]
    line: int


def read_ratings(
    name: str, attributes: Sequence[str], report: RowReport, *, limit: int | None = None
) -> Iterator[RatedResponse]:
    """Reads a data set; rows that cannot be used are added to `report`.

    Raises:
        NoPairs: no row could be used.
        DataError: it cannot be read at all.
    """
    good = 0
    for line, row in read_rows(name):
        if good == limit:
            return
        report.rows += 1
        try:
            if isinstance(row, BadRow):
                raise row
            rated = to_rated(row, attributes, line)
        except BadRow as error:
            report.add(line, error)
        else:
            good += 1
            yield rated
    if not good:
        raise none_usable(name, report)


def fingerprinted(identity: Fingerprint, rated: Iterable[RatedResponse]) -> Iterator[RatedResponse]:
    """Passes `rated` on and adds it to `identity`."""
    for one in rated:
        identity.add(one.prompt, one.response, *(None if math.isnan(r) else r for r in one.ratings))
        yield one


def to_rated(row: Any, attributes: Sequence[str], line: int) -> RatedResponse:
    """Turns one row into a rated response.

    Raises:
        BadRow: it has no response, no attribute of it was rated with a finite number, or it cannot be rendered.
    """
    if not isinstance(row, Mapping):
        msg = f"a row must be an object with `prompt` and `response`, not {type(row).__name__}"
        raise BadRow(MALFORMED, msg)
    check_renderable(row)
    ratings = tuple(_rating(row, name) for name in attributes)
    if all(map(math.isnan, ratings)):
        msg = f"it has none of the attributes {', '.join(attributes)} but {columns_of(row)}"
        raise BadRow(MALFORMED, msg)
    for column in ("prompt", "response"):
        if row.get(column) is None:
            msg = f"there is no `{column}` but {columns_of(row)}; expected are `prompt`, `response` and the attributes"
            raise BadRow(MALFORMED, msg)
    return RatedResponse(
        turns_of(row.get("prompt"), "prompt"), response_of(row.get("response"), "response"), ratings, line
    )


def _rating(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name)
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        msg = f"`{name}` must be a finite number, not {without_text(value)}"
        raise BadRow(MALFORMED, msg)
    return float(value)


def render_rated(
    rated: Iterable[RatedResponse], renderer: Renderer, scalarisation: Scalarisation, report: RowReport
) -> Iterator[Example]:
    """One example for each run of rows with the same prompt; what cannot be rendered is added to `report`.

    Of two responses to one prompt, rated in full, the one with the higher reward counts as chosen: that is what
    accuracy and calibration are measured on. The loss knows ratings only.
    """
    bar = tqdm(rated, desc="rendering", unit="response", disable=hidden())
    for prompt, run in groupby(bar, key=lambda one: one.prompt):
        members, sequences = _rendered(prompt, list(run), renderer, report)
        if not members:
            continue
        rewards = [_reward(one.ratings, scalarisation) for one in members]
        comparisons = tuple(
            Comparison(a, b) if rewards[a] > rewards[b] else Comparison(b, a)
            for a, b in combinations(range(len(members)), 2)
            if rewards[a] != rewards[b]
            and not math.isnan(rewards[a] + rewards[b])
            and sequences[a].token_ids != sequences[b].token_ids
        )
        ratings = tuple(one.ratings for one in members)
        own = prompt_tokens(sequences, [one.response for one in members], renderer)
        yield Example(sequences, comparisons, members[0].line, prompt_digest(prompt), ratings, own)


def _rendered(
    prompt: Prompt, members: list[RatedResponse], renderer: Renderer, report: RowReport
) -> tuple[list[RatedResponse], tuple[Rendered, ...]]:
    """Those that can be rendered, and their sequences; the others are added to `report`."""
    try:
        return members, render_responses(prompt, [one.response for one in members], renderer)
    except BadRow as error:
        failure = error
    # Rows of their own: what is wrong with one is not wrong with its neighbours.
    fit = []
    for one in members:
        try:
            render_responses(prompt, [one.response], renderer)
        except BadRow as error:
            report.add(one.line, error)
        else:
            fit.append(one)
    if len(fit) < len(members):
        return _rendered(prompt, fit, renderer, report) if fit else ([], ())
    for one in members:
        report.add(one.line, failure)
    return [], ()


def _reward(ratings: Sequence[float], scalarisation: Scalarisation) -> float:
    """NaN where an attribute that counts was not rated."""
    return math.fsum(w * r for w, r in zip(scalarisation.weights, ratings, strict=True) if w != 0)
