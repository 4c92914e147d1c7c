"""Whether a data set is the published benchmark: which parts are missing, extra or of another size.

Knows names and counts only.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Coverage:
    """How a data set differs from the published one.

    Attributes:
        missing: published parts of which there is no item.
        extra: parts that are not published; they are in no score.
        sizes: items found and published, of the parts that are there in another number.
    """

    missing: tuple[str, ...]
    extra: tuple[str, ...]
    sizes: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, found: Iterable[str], published: Mapping[str, int]) -> "Coverage":
        """Compares the parts of all items with the published number of items of each part."""
        counts = Counter(found)
        return cls(
            missing=tuple(name for name in published if name not in counts),
            extra=tuple(sorted(counts.keys() - published.keys())),
            sizes={name: (counts[name], n) for name, n in published.items() if counts[name] not in {0, n}},
        )

    @property
    def complete(self) -> bool:
        """Whether it has every part in its published size, and nothing else."""
        return not (self.missing or self.extra or self.sizes)

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        sizes = {name: {"items": n, "published": published} for name, (n, published) in self.sizes.items()}
        return {
            "complete": self.complete,
            "missing": list(self.missing),
            "extra": list(self.extra),
            "other_sizes": sizes,
        }

    def table(self) -> str:
        """What differs, a line for each kind; empty where nothing does."""
        lines = []
        if self.missing:
            lines.append(f"missing: {', '.join(self.missing)} (what they belong to has no score)")
        if self.extra:
            lines.append(f"not of this benchmark, in no score: {', '.join(self.extra)}")
        for name, (n, published) in self.sizes.items():
            lines.append(f"{name}: {n:,} items, published are {published:,}")
        return "\n".join(lines)
