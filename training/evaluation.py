"""The result of evaluating a checkpoint on a data set, as a document for machines and a table for people.

Knows numbers only: how they came about is `training.pairwise`'s business.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reward_model.calibration import RewardStatistics
from training.data import RowReport
from training.paired import PairedDifference
from training.probabilities import ProbabilityQuality
from training.statistics import Accuracy, Correlation


@dataclass(frozen=True, slots=True)
class Provenance:
    """What was evaluated, on what and how: without these, a figure means nothing.

    Attributes:
        model, model_fingerprint: the checkpoint's name and the identity of its score function.
        dataset_fingerprint: identity of the pairs.
        max_length: tokens a conversation may have.
        device, dtype: what the model ran on and in.
        temperature, calibrated: what margins were divided by to become probabilities, and whether to trust it.
        length_calibrated: the checkpoint takes off each reward what it owes to the response's length.
    """

    model: str
    model_fingerprint: str
    dataset_fingerprint: str
    max_length: int
    device: str
    dtype: str
    temperature: float
    calibrated: bool
    length_calibrated: bool = False


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well the scores of a checkpoint agree with a set of preferences.

    Attributes:
        overall: accuracy over all pairs, in which a pair that could not be scored counts 0.5.
        outcomes: of each pair, in their order: 1 where the model agrees with people, 0 where not.
        prompts: how many different prompts there are.
        by_category, by_source, by_subset: accuracy of the pairs that have such a label.
        longer_wins: accuracy of preferring the longer response (in characters): what no reading at all would reach.
        length_balanced: accuracy where pairs whose longer response is the better one weigh as much as the others; None
            where there are none of the one or the other.
        probabilities: over the scored pairs.
        length_correlation: of the score with the response's characters, over all scored responses.
        reward: distribution of the raw scores.
        truncated: pairs whose prompt had to be cut.
        not_scored: pairs that have no score, by reason.
    """

    overall: Accuracy
    outcomes: Sequence[float]
    prompts: int
    by_category: Mapping[str, Accuracy]
    by_source: Mapping[str, Accuracy]
    by_subset: Mapping[str, Accuracy]
    longer_wins: float
    length_balanced: Accuracy | None
    probabilities: ProbabilityQuality
    length_correlation: Correlation
    reward: RewardStatistics
    truncated: int
    not_scored: RowReport
    provenance: Provenance

    def to_json(self) -> dict[str, Any]:
        """The result as one JSON document."""
        groups = {"by_category": self.by_category, "by_source": self.by_source, "by_subset": self.by_subset}
        return {
            **asdict(self.overall),
            "prompts": self.prompts,
            **asdict(self.probabilities),
            **{name: {key: asdict(one) for key, one in members.items()} for name, members in groups.items()},
            "longer_wins": self.longer_wins,
            "length_balanced": self.length_balanced and asdict(self.length_balanced),
            "length_correlation": asdict(self.length_correlation),
            "reward": asdict(self.reward),
            "truncated": self.truncated,
            "not_scored": self.not_scored.rejected,
            "not_scored_rows": self.not_scored.to_json()["reasons"],
            **asdict(self.provenance),
        }

    def table(self) -> str:
        """The result as plain text."""
        blocks = [self._summary()]
        for name, members in (
            ("category", self.by_category),
            ("source", self.by_source),
            ("subset", self.by_subset),
        ):
            if members:
                blocks.append(_group_table(name, members))
        if self.not_scored.rejected:
            blocks.append(f"Without a score, counted 0.5:\n{self.not_scored.table()}")
        return "\n\n".join(blocks)

    def _summary(self) -> str:
        about, quality, length = self.provenance, self.probabilities, self.length_correlation
        trust = "fitted" if about.calibrated else "not calibrated"
        rows = [
            ("model", f"{about.model}  {about.model_fingerprint}"),
            ("pairs", f"{self.overall.n:,} on {self.prompts:,} prompts  {about.dataset_fingerprint}"),
            ("computed", f"{about.dtype} on {about.device}, max_length {about.max_length:,}"),
            ("accuracy", _percent(self.overall)),
            ("length-balanced", _percent(self.length_balanced) if self.length_balanced else " undefined"),
            ("longer wins", f"{self.longer_wins:6.1%}"),
            ("temperature", f"{about.temperature:.3g} ({trust})"),
            ("ECE", f"{quality.ece:.3f} (right probabilities: below {quality.ece_by_chance:.3f} in 95 of 100 cases)"),
            ("NLL", f"{quality.nll:.4f} (T = 1: {quality.nll_uncalibrated:.4f}, constant: {quality.nll_constant:.4f})"),
            ("Brier", f"{quality.brier:.4f}"),
            ("score, length", f"Pearson {_rounded(length.pearson)}, Spearman {_rounded(length.spearman)}"),
            *([("rewards are", "calibrated by the length of the response")] if about.length_calibrated else []),
            ("rewards", f"mean {self.reward.mean:.3f}, standard deviation {self.reward.std:.3f}"),
            ("truncated", f"{self.truncated:,} pairs"),
            ("not scored", f"{self.not_scored.rejected:,} pairs"),
        ]
        return "\n".join(f"{name:<16}{value}" for name, value in rows)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A checkpoint beside another one, the baseline, on the same pairs.

    Attributes:
        baseline: of the other one.
        paired: this one's outcomes beside its outcomes.
    """

    baseline: Evaluation
    paired: PairedDifference

    def to_json(self) -> dict[str, Any]:
        """What there is to say beside the checkpoint's own evaluation."""
        about = self.baseline.provenance
        return {
            "model": about.model,
            "model_fingerprint": about.model_fingerprint,
            **asdict(self.baseline.overall),
            "not_scored": self.baseline.not_scored.rejected,
            **asdict(self.paired),
        }

    def table(self) -> str:
        """The comparison as plain text."""
        about, paired = self.baseline.provenance, self.paired
        low, high = (100 * bound for bound in paired.difference_interval)
        rows = [
            ("baseline", f"{about.model}  {about.model_fingerprint}"),
            ("its accuracy", _percent(self.baseline.overall)),
            (
                "difference",
                f"{100 * paired.difference:+.1f} points [{low:+.1f}, {high:+.1f}], p = {paired.p_value:.2g}",
            ),
            ("pairs", f"better on {paired.better:,}, worse on {paired.worse:,}"),
            ("not scored", f"{self.baseline.not_scored.rejected:,} pairs by the baseline"),
        ]
        return "\n".join(f"{name:<16}{value}" for name, value in rows)


def _group_table(name: str, members: Mapping[str, Accuracy]) -> str:
    width = max(len(name), *map(len, members))
    rows = [f"{key:<{width}}  {one.n:>8,}  {_percent(one)}" for key, one in members.items()]
    return "\n".join([f"{name:<{width}}  {'pairs':>8}  accuracy [95 % interval]", *rows])


def _percent(one: Accuracy) -> str:
    low, high = one.accuracy_interval
    return f"{one.accuracy:6.1%} [{low:.1%}, {high:.1%}]"


def _rounded(value: float | None) -> str:
    return "undefined" if value is None else f"{value:+.3f}"
