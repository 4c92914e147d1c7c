"""How long the texts of a data set are, in tokens, and whether the longer response tends to win.

Exact, in memory that depends on the longest text only. Knows examples, not files.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from reward_model.calibration import agreement
from training.examples import Example

_SHARES = {"p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


class Lengths:
    """Lengths as they are trained on: prompts after they were cut, with what the template adds."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[int]] = {}
        self._longer_wins = 0.0
        self._pairs = 0
        self._cut = 0

    def of_examples(self, examples: Iterable[Example]) -> Iterator[Example]:
        """Passes `examples` on."""
        for example in examples:
            self.add(example)
            yield example

    def add(self, example: Example) -> None:
        """Counts one more."""
        lengths = [len(one.token_ids) - example.prompt_tokens for one in example.sequences]
        self._count("prompt", example.prompt_tokens)
        for length in lengths if example.ratings else ():
            self._count("response", length)
        for one in example.comparisons:
            self._count("chosen", lengths[one.chosen])
            self._count("rejected", lengths[one.rejected])
            self._longer_wins += agreement(lengths[one.chosen] - lengths[one.rejected], one.label)
        self._pairs += len(example.comparisons)
        self._cut += any(one.truncated for one in example.sequences)

    def to_json(self) -> dict[str, Any]:
        """Quantiles by what is measured, the share of pairs that the longer response wins, and prompts cut."""
        quantiles = {name: _quantiles(counts) for name, counts in self._counts.items()}
        longer = {"longer_wins": self._longer_wins / self._pairs} if self._pairs else {}
        return {**quantiles, **longer, "prompts_cut": self._cut}

    def table(self) -> str:
        """The same as plain text."""
        head = f"{'tokens':<10}" + "".join(f"{share:>8}" for share in _SHARES)
        rows = [
            f"{name:<10}" + "".join(f"{length:>8,}" for length in _quantiles(counts).values())
            for name, counts in self._counts.items()
        ]
        longer = f"the longer response wins {self._longer_wins / self._pairs:.1%}, " if self._pairs else ""
        return "\n".join([head, *rows, f"{longer}prompts cut: {self._cut:,}"])

    def _count(self, name: str, length: int) -> None:
        self._counts.setdefault(name, Counter())[length] += 1


def _quantiles(counts: Counter[int]) -> dict[str, int]:
    """For each share the smallest length that at least this share does not exceed."""
    total, below = counts.total(), 0
    waiting = list(_SHARES.items())
    result: dict[str, int] = {}
    for length in sorted(counts):
        below += counts[length]
        while waiting and below >= waiting[0][1] * total:
            result[waiting.pop(0)[0]] = length
    return result
