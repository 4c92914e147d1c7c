"""What one training step is made of: the responses to one prompt as tokens, and who of them won against whom.

A pair is two responses and one comparison; a ranking of K has up to K (K - 1) / 2 comparisons, each response being
computed once. Knows rendering, not packing or losses.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from typing import overload

from tqdm import tqdm

from reward_model.errors import InputError, TooLong
from reward_model.records import Prompt
from reward_model.rendering import Rendered, Renderer
from training.data import RowReport
from training.likeness import common_beginning
from training.pairs import IDENTICAL, NOT_RENDERABLE, TOO_LONG, BadRow, PreferencePair
from training.progress import hidden

#: Bytes that stand for a prompt: enough that among billions no two have the same.
_DIGEST = 16


@dataclass(frozen=True, slots=True)
class Comparison:
    """Which of two sequences of an example is better.

    Attributes:
        chosen, rejected: their places in the example.
        margin: by how much the chosen one is better; None where nobody said.
        label: probability that the chosen one is the better one.
    """

    chosen: int
    rejected: int
    margin: float | None = None
    label: float = 1.0


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt's responses; the prompt was cut once for all of them.

    Attributes:
        sequences: prompt and response, each at least one token.
        comparisons: among them.
        line: where it stands in its file, counted from 1.
        prompt: what the prompt can be told by.
        ratings: for each sequence one number for each attribute, NaN where nobody rated; empty without attributes.
        prompt_tokens: with how many tokens of the prompt every sequence begins.
        source, category: labels to report results by.
    """

    sequences: tuple[Rendered, ...]
    comparisons: tuple[Comparison, ...]
    line: int
    prompt: bytes
    ratings: tuple[tuple[float, ...], ...] = ()
    prompt_tokens: int = 0
    source: str | None = None
    category: str | None = None


class SequencesOf(Sequence[Sequence[Rendered]]):
    """The sequences of examples, looked up when they are asked for: examples may be more than fit into memory."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        """How many examples."""
        return len(self._examples)

    @overload
    def __getitem__(self, index: int) -> Sequence[Rendered]: ...
    @overload
    def __getitem__(self, index: slice) -> "SequencesOf": ...
    def __getitem__(self, index: int | slice) -> "Sequence[Rendered] | SequencesOf":
        """Those of one example, or of the examples of a slice."""
        if isinstance(index, slice):
            return SequencesOf(self._examples[index])
        return self._examples[index].sequences


def render_examples(pairs: Iterable[PreferencePair], renderer: Renderer, report: RowReport) -> Iterator[Example]:
    """Renders all pairs, those of one line (a ranking) as one example; what cannot be used is added to `report`.

    A prompt is cut where it is too long; a response never is, so that one that is too long alone is a bad row.
    """
    bar = tqdm(pairs, desc="rendering", unit="pair", disable=hidden())
    for line, members in groupby(bar, key=lambda pair: pair.line):
        try:
            yield render_example(list(members), renderer)
        except BadRow as error:
            report.add(line, error)


def render_example(pairs: Sequence[PreferencePair], renderer: Renderer) -> Example:
    """Renders the pairs of one prompt.

    Raises:
        BadRow: a response does not fit, the template has no form for the prompt, or both responses of a pair render to
            the same tokens.
    """
    responses = list(dict.fromkeys(text for pair in pairs for text in (pair.chosen, pair.rejected)))
    sequences = render_responses(pairs[0].prompt, responses, renderer)
    place = {text: i for i, text in enumerate(responses)}
    comparisons = tuple(Comparison(place[p.chosen], place[p.rejected], p.margin, p.label) for p in pairs)
    for one in comparisons:
        if sequences[one.chosen].token_ids == sequences[one.rejected].token_ids:
            msg = "both responses render to the same tokens"
            raise BadRow(IDENTICAL, msg)
    own = prompt_tokens(sequences, responses, renderer)
    first = pairs[0]
    return Example(
        sequences,
        comparisons,
        first.line,
        prompt_digest(first.prompt),
        prompt_tokens=own,
        source=first.source,
        category=first.category,
    )


def render_responses(prompt: Prompt, responses: Sequence[str], renderer: Renderer) -> tuple[Rendered, ...]:
    """Renders responses to one prompt, cut once for all.

    Raises:
        BadRow: a response does not fit, or the template has no form for the prompt.
    """
    try:
        return tuple(renderer.render_group(prompt, responses, truncate=True))
    except InputError as error:
        raise BadRow(TOO_LONG if isinstance(error, TooLong) else NOT_RENDERABLE, str(error)) from error


def prompt_tokens(sequences: Sequence[Rendered], responses: Sequence[str], renderer: Renderer) -> int:
    """How many tokens the sequences have in common because the prompt is, not because responses begin alike.

    Where responses begin alike it can be off by a token or two, since what they share is tokenised by itself here.
    """
    # What the first and the last in sorted order begin with, all between them begin with.
    ids = [one.token_ids for one in sequences]
    common = common_beginning(min(ids), max(ids))
    first, last = min(responses), max(responses)
    shared = first[: common_beginning(first, last)]
    if not shared:
        return common
    (encoding,) = renderer.tokenizer.backend_tokenizer.encode_batch_fast([shared], add_special_tokens=False)
    return max(0, common - len(encoding.ids))


def prompt_digest(prompt: Prompt) -> bytes:
    """The same for the same prompt, in any process."""
    turns = [(message.role, message.content) for message in prompt]
    return blake2b(repr(turns).encode(), digest_size=_DIGEST).digest()
