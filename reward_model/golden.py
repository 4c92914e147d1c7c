"""Golden vectors: conversations whose tokens and reference scores travel with the checkpoint.

Replayed at every start, they catch what file hashes cannot: another library version, another template engine, a kernel
that rounds differently. All texts are ours. Knows neither files nor devices.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reward_model.errors import CheckpointRefused, GoldenMismatch, InputError
from reward_model.records import Conversation, Message, Text
from reward_model.rendering import Rendered, Renderer

if TYPE_CHECKING:
    from reward_model.model import RewardModel

#: The longest golden vector, so that neither the file nor the replay grows with a model's 32k context.
MAX_GOLDEN_TOKENS = 2048
_FEWEST = 6


@dataclass(frozen=True, slots=True)
class GoldenVector:
    """One conversation, its tokens and its score by the reference (transformers, eager, fp32, alone, unpadded).

    Attributes:
        record: rendered with `truncate=True`; a `Text` only where a foreign model has no form for conversations.
        token_ids: what rendering must give, exactly.
        score: what the model must give, within tolerance.
    """

    record: Conversation | Text
    token_ids: tuple[int, ...]
    score: float


def golden_renderings(renderer: Renderer) -> Iterator[tuple[Conversation | Text, Rendered]]:
    """The golden conversations, each in the fullest form that this checkpoint can render.

    Raises:
        CheckpointRefused: most of them cannot be rendered.
    """
    found = 0
    for conversation in _conversations(renderer.max_length):
        for variant in _variants(conversation, renderer):
            try:
                rendered = renderer.render(variant, truncate=True)
            except InputError:
                continue
            found += 1
            yield variant, rendered
            break
    if found < _FEWEST:
        msg = (
            f"only {found} of the golden conversations can be rendered within {renderer.max_length} tokens: raise"
            " max_length or mend the chat template"
        )
        raise CheckpointRefused(msg)


def replay(vectors: Sequence[GoldenVector], renderer: Renderer, model: "RewardModel", tolerance: float) -> float:
    """Renders and scores every vector again.

    Returns:
        The largest absolute difference to the recorded scores.

    Raises:
        CheckpointRefused: a vector renders to other tokens.
        GoldenMismatch: a score is off by more than `tolerance`.
    """
    rendered = [_rerender(i, vector, renderer) for i, vector in enumerate(vectors)]
    worst = 0.0
    for i, (vector, score) in enumerate(zip(vectors, model.score(rendered), strict=True)):
        error = abs(score.value - vector.score)
        if not error <= tolerance:
            msg = (
                f"golden vector {i} scores {score.value:.6g} here, but {vector.score:.6g} when the checkpoint was"
                f" written (tolerance {tolerance:.2g}, {model.precision.dtype_name}): this is not the trained score"
            )
            raise GoldenMismatch(msg)
        worst = max(worst, error)
    return worst


def _rerender(index: int, vector: GoldenVector, renderer: Renderer) -> Rendered:
    try:
        rendered = renderer.render(vector.record, truncate=True)
    except InputError as error:
        msg = f"golden vector {index} cannot be rendered any more: {error}"
        raise CheckpointRefused(msg) from error
    if tuple(rendered.token_ids) != vector.token_ids:
        msg = (
            f"golden vector {index} renders to {len(rendered.token_ids)} tokens that differ from the recorded"
            f" {len(vector.token_ids)}: the tokenizer or the template does not do what it did in training"
        )
        raise CheckpointRefused(msg)
    return rendered


def _variants(conversation: Conversation, renderer: Renderer) -> list[Conversation | Text]:
    if renderer.rendering == "text":
        return [Text("\n".join([*(m.content for m in conversation.prompt), conversation.response]))]
    no_system = replace(conversation, prompt=tuple(m for m in conversation.prompt if m.role != "system"))
    return [conversation, no_system, Conversation(conversation.prompt[-1:], conversation.response)]


def _conversations(limit: int) -> list[Conversation]:
    def of(*turns: str, system: str | None = None, finished: bool = True) -> Conversation:
        head = (Message("system", system),) if system is not None else ()
        prompt = tuple(Message("assistant" if i % 2 else "user", turn) for i, turn in enumerate(turns[:-1]))
        return Conversation((*head, *prompt), turns[-1], finished)

    exchange = ("Which colour comes next?", "After the green one comes the blue one.")
    return [
        of("Why is the sky blue?", "Air scatters short wavelengths of sunlight more strongly than long ones."),
        of("Why is the sky blue?", "Because someone painted it that way."),
        of("Name three primes.", "2, 3 and 5.", "And one larger than ten?", "11."),
        of("Translate: good morning", "Guten Morgen", system="You are a translator from English to German."),
        of("Grüße aus 東京 🌸 — кто там?", "Привет! ¿Qué tal? नमस्ते 👋🏽"),
        of("Say nothing.", ""),
        of("Write a loop in Python.", "```python\nfor i in range(3):\n\tprint(i)\n```\n"),
        of('Return {"ok": true} as JSON.', '{"ok": true}'),
        of("Tell me a long story.", "Once there was a lighthouse keeper who", finished=False),
        of("  spaces\n\n\tand tabs ", " kept as they are "),
        of(*exchange * (limit // 16 + 1), "Which one was first?", "The red one.", system="Be brief."),
        of("one two three four five " * (limit // 4 + 1), "That was counting."),
    ]
