"""What a model made of a set of pairs: two rewards each, and what there is to group them by, without a word of text.

Written beside a checkpoint as `held_out.json`, so that a report can be made anew without scoring anything. Knows
rewards and labels, neither models nor drawings.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from reward_model.atomic import replaced_file
from reward_model.calibration import agreement
from training.documents import read_document
from training.examples import Example
from training.outcomes import Outcomes
from training.pairs import PreferencePair
from training.probabilities import ProbabilityQuality, probability_quality
from training.rows import DataError
from training.statistics import Accuracy, Correlation, accuracy, correlation

HELD_OUT_FILE = "held_out.json"
_FORMAT_VERSION = 1
_FILES = (".jsonl", ".jsonl.gz", ".json", ".parquet")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One pair as the model sees it.

    Attributes:
        line: where it stands in its data set; the pairs of a ranking share one.
        prompt: number of its prompt, counted from 0.
        places: which responses of the line are chosen and rejected, counted from 0.
        rewards: of chosen and rejected; None where the pair could not be scored.
        lengths: of chosen and rejected, in the unit of the whole.
        label: probability that the chosen response is the better one.
        source, category: labels of the data set.
    """

    line: int
    prompt: int
    places: tuple[int, int]
    rewards: tuple[float, float] | None
    lengths: tuple[int, int]
    label: float
    source: str | None
    category: str | None

    @property
    def margin(self) -> float:
        """Chosen minus rejected; 0 where there are no rewards."""
        return self.rewards[0] - self.rewards[1] if self.rewards else 0.0

    @property
    def agreement(self) -> float:
        """Expected agreement with the judge; 0.5 for a tie and for what could not be scored."""
        return agreement(self.margin, self.label)


@dataclass(frozen=True, slots=True)
class DataSet:
    """Where pairs come from.

    Attributes:
        name: for people; of a file without the directory that it lay in.
        fingerprint: identity of the pairs; None where they are a part of a data set.
        hub: its name on the hub, with the split; None for a file.
    """

    name: str
    fingerprint: str | None
    hub: str | None = None

    @classmethod
    def named(cls, name: str, fingerprint: str | None) -> "DataSet":
        """By what was given as `--dataset_name`."""
        hub = hub_name(name)
        return cls(hub or Path(name).name, fingerprint, hub)


def hub_name(name: str) -> str | None:
    """`name` if it is one of the hub, not a path."""
    path = Path(name).expanduser()
    local = path.exists() or name.startswith((".", "/", "~")) or name.endswith(_FILES)
    return None if local else name


@dataclass(frozen=True, slots=True)
class Verdicts:
    """All pairs of a data set.

    Attributes:
        dataset: which.
        unit: of lengths, "tokens" or "characters".
        pairs: one or more.
    """

    dataset: DataSet
    unit: str
    pairs: tuple[Verdict, ...]

    @classmethod
    def of_examples(cls, dataset: DataSet, examples: Iterable[Example], outcomes: Outcomes) -> "Verdicts":
        """Those of rendered examples, whose comparisons have `outcomes` in the same order; lengths are in tokens."""
        prompts: dict[bytes, int] = {}
        rewards = zip(outcomes.chosen, outcomes.rejected, strict=True)
        pairs = []
        for example in examples:
            lengths = [len(one.token_ids) - example.prompt_tokens for one in example.sequences]
            prompt = prompts.setdefault(example.prompt, len(prompts))
            for one in example.comparisons:
                both = (one.chosen, one.rejected)
                measured = (lengths[one.chosen], lengths[one.rejected])
                labels = (one.label, example.source, example.category)
                pairs.append(Verdict(example.line, prompt, both, next(rewards), measured, *labels))
        return cls(dataset, "tokens", tuple(pairs))

    @classmethod
    def of_pairs(
        cls,
        dataset: DataSet,
        pairs: Sequence[PreferencePair],
        rewards: Mapping[int, tuple[float, float]],
    ) -> "Verdicts":
        """Those of pairs with their texts; `rewards` are by index, and lengths in characters."""
        prompts: dict[Any, int] = {}
        places: dict[int, dict[str, int]] = {}
        verdicts = []
        for i, pair in enumerate(pairs):
            known = places.setdefault(pair.line, {})
            chosen, rejected = (known.setdefault(text, len(known)) for text in (pair.chosen, pair.rejected))
            verdicts.append(
                Verdict(
                    pair.line,
                    prompts.setdefault(pair.prompt, len(prompts)),
                    (chosen, rejected),
                    rewards.get(i),
                    (len(pair.chosen), len(pair.rejected)),
                    pair.label,
                    pair.source,
                    pair.category,
                )
            )
        return cls(dataset, "characters", tuple(verdicts))

    @property
    def scored(self) -> tuple[Verdict, ...]:
        """Those with rewards."""
        return tuple(one for one in self.pairs if one.rewards)

    @property
    def prompts(self) -> int:
        """How many different ones there are."""
        return len({one.prompt for one in self.pairs})

    @property
    def accuracy(self) -> Accuracy:
        """Of all pairs, as `training.evaluate` counts."""
        return _accuracy(self.pairs)

    @property
    def longer_wins(self) -> float:
        """Accuracy of preferring the longer response."""
        return math.fsum(agreement(v.lengths[0] - v.lengths[1], v.label) for v in self.pairs) / len(self.pairs)

    @property
    def length_correlation(self) -> Correlation:
        """Of rewards with lengths, over all scored responses."""
        rewards = [reward for one in self.scored for reward in one.rewards or ()]
        return correlation(rewards, [length for one in self.scored for length in one.lengths])

    def quality(self, temperature: float) -> ProbabilityQuality:
        """Of sigmoid(margin / temperature), over the scored pairs, of which there must be one."""
        scored = self.scored
        return probability_quality([one.margin for one in scored], temperature, [one.label for one in scored])

    def by(self, label: Callable[[Verdict], str | None]) -> dict[str, Accuracy]:
        """Accuracy for each label, the highest first; pairs without one are in none."""
        members: dict[str, list[Verdict]] = {}
        for one in self.pairs:
            if (name := label(one)) is not None:
                members.setdefault(name, []).append(one)
        found = {name: _accuracy(those) for name, those in sorted(members.items())}
        return dict(sorted(found.items(), key=lambda item: -item[1].accuracy))

    def write(self, path: Path) -> None:
        """Writes them as JSON, in one step.

        Raises:
            OSError: the disk is full.
        """
        document = {
            "format_version": _FORMAT_VERSION,
            "dataset": asdict(self.dataset),
            "unit": self.unit,
            "pairs": {f.name: [getattr(one, f.name) for one in self.pairs] for f in fields(Verdict)},
        }
        with replaced_file(path) as file:
            file.write(
                json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"
            )


def read_verdicts(path: Path) -> Verdicts | None:
    """What `Verdicts.write` wrote; None where there is no such file.

    Raises:
        DataError: it is something else.
    """
    if not path.is_file():
        return None
    try:
        document = read_document(path, _FORMAT_VERSION)
        columns = document.pop("pairs")
        rows = zip(*(columns[f.name] for f in fields(Verdict)), strict=True)
        return Verdicts(DataSet(**document.pop("dataset")), **document, pairs=tuple(_verdict(*row) for row in rows))
    except (ValueError, TypeError, KeyError) as error:
        msg = f"{path} cannot be read ({type(error).__name__}: {error}): name the pairs with --dataset_name instead"
        raise DataError(msg) from error


def _verdict(line: int, prompt: int, places: Any, rewards: Any, lengths: Any, *labels: Any) -> Verdict:
    return Verdict(line, prompt, tuple(places), tuple(rewards) if rewards else None, tuple(lengths), *labels)


def _accuracy(pairs: Sequence[Verdict]) -> Accuracy:
    return accuracy([one.agreement for one in pairs], [one.prompt for one in pairs])
