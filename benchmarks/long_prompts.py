"""Preference pairs for trainers to learn from: those with the longest prompts of what no trainer has to cut or drop.

Knows preference data and rendering, not trainers.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from reward_model.records import Message
from reward_model.rendering import Renderer
from training.batches import computed_tokens
from training.data import RowReport, read_preferences
from training.examples import Example, render_examples
from training.pairs import PreferencePair


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs with their tokens.

    Attributes:
        pairs: as they were read.
        examples: the same, rendered.
    """

    pairs: tuple[PreferencePair, ...]
    examples: tuple[Example, ...]

    @property
    def ids(self) -> str:
        """SHA-256 of all token ids in order, as JSON: a trainer with other ones learns from something else."""
        ids = [[one.token_ids for one in example.sequences] for example in self.examples]
        return hashlib.sha256(json.dumps(ids).encode()).hexdigest()

    def tokens(self, *, share_prefixes: bool) -> int:
        """How many tokens one pass over them computes without padding."""
        return sum(computed_tokens(example, share_prefixes=share_prefixes) for example in self.examples)

    @property
    def prompt_tokens(self) -> list[int]:
        """For each pair how many tokens its two sides begin with in common."""
        return [_prompt_tokens(example) for example in self.examples]

    def write(self, path: Path) -> None:
        """Writes them as JSON lines in TRL's conversational format."""
        path.write_text("".join(json.dumps(_row(pair)) + "\n" for pair in self.pairs), encoding="utf-8")


def longest(dataset: str, renderer: Renderer, count: int, *, min_prompt_tokens: int = 0) -> Pairs:
    """The `count` pairs with the longest prompts, in the order of the file.

    Only pairs that fit into `renderer.max_length` as they are, so that nobody cuts or drops any.

    Args:
        dataset: preference data; see `training.data.read_preferences`.
        renderer: how they become tokens.
        count: how many; all that fit where there are fewer.
        min_prompt_tokens: leave out those with shorter prompts.
    """
    report = RowReport()
    fitting: list[tuple[PreferencePair, Example]] = []
    for pair in read_preferences(dataset).pairs:
        fitting += [
            (pair, example)
            for example in render_examples([pair], renderer, report)
            if not any(one.truncated for one in example.sequences) and _prompt_tokens(example) >= min_prompt_tokens
        ]
    ranked = sorted(range(len(fitting)), key=lambda i: -_prompt_tokens(fitting[i][1]))[:count]
    chosen = [fitting[i] for i in sorted(ranked)]
    return Pairs(tuple(pair for pair, _ in chosen), tuple(example for _, example in chosen))


def _prompt_tokens(example: Example) -> int:
    first, second = (one.token_ids for one in example.sequences)
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(first, second, strict=False)))


def _row(pair: PreferencePair) -> dict[str, object]:
    return {
        "prompt": _turns(pair.prompt),
        "chosen": _turns([Message("assistant", pair.chosen)]),
        "rejected": _turns([Message("assistant", pair.rejected)]),
    }


def _turns(messages: Iterable[Message] | Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]
