"""What a model made of comparisons: the rewards of both responses beside what people said, and figures over them.

Knows rewards and labels, neither models nor trainers.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import correlation, fmean

import torch
from torch import Tensor

from reward_model.calibration import agreement
from training.batches import Pack
from training.examples import Example
from training.losses import bradley_terry

#: Packs whose rewards may wait on the device; fetching each at once would make it wait for us.
_WAITING = 64


@dataclass(slots=True)
class Outcomes:
    """Comparisons in the order they were made.

    Attributes:
        chosen, rejected: rewards.
        labels: probability that the chosen response is the better one.
        rewards: of all sequences; what is not compared is among them too.
        ratings: what people gave to the same sequences, weighed as the reward is; NaN where nobody did, and nothing
            at all without attributes.
    """

    chosen: list[float] = field(default_factory=list)
    rejected: list[float] = field(default_factory=list)
    labels: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    ratings: list[float] = field(default_factory=list)
    _waiting: list[tuple[Tensor, ...]] = field(default_factory=list)

    @classmethod
    def of(
        cls, examples: Iterable[Example], rewards: Iterable[Sequence[float]], weights: Sequence[float] = (1.0,)
    ) -> "Outcomes":
        """Those of `examples`, given for each the rewards of its sequences, and what each attribute counts for."""
        result = cls()
        for example, values in zip(examples, rewards, strict=True):
            result.rewards += values
            result.ratings += [_weighted(weights, given) for given in example.ratings]
            result.chosen += [values[one.chosen] for one in example.comparisons]
            result.rejected += [values[one.rejected] for one in example.comparisons]
            result.labels += [one.label for one in example.comparisons]
        return result

    @classmethod
    def together(cls, parts: Iterable["Outcomes"]) -> "Outcomes":
        """One after the other."""
        result = cls()
        for part in parts:
            result.chosen += part.chosen
            result.rejected += part.rejected
            result.labels += part.labels
            result.rewards += part.rewards
            result.ratings += part.ratings
        return result

    def add(self, rewards: Tensor, pack: Pack) -> None:
        """Notes the rewards [n] of a pack; the device is waited for once in a while only, or by `take`."""
        self._waiting.append((rewards, pack.chosen, pack.rejected, pack.label))
        if len(self._waiting) >= _WAITING:
            self._settle()

    def take(self) -> "Outcomes":
        """What was noted since the last time."""
        self._settle()
        result = Outcomes(self.chosen, self.rejected, self.labels, self.rewards)
        self.chosen, self.rejected, self.labels, self.rewards = [], [], [], []
        return result

    def _settle(self) -> None:
        for tensor, chosen, rejected, label in self._waiting:
            rewards = tensor.float().tolist()
            self.rewards += rewards
            self.chosen += [rewards[i] for i in chosen.tolist()]
            self.rejected += [rewards[i] for i in rejected.tolist()]
            self.labels += label.tolist()
        self._waiting = []

    @property
    def margins(self) -> list[float]:
        """Chosen minus rejected."""
        return [better - worse for better, worse in zip(self.chosen, self.rejected, strict=True)]

    def metrics(self, *, loss: bool = False) -> dict[str, float]:
        """Expected agreement with the labels (ties 0.5), mean margin, mean and standard deviation of all rewards.

        Where responses were rated, mean squared error and correlation (Pearson) of reward and rating. The Bradley-Terry
        loss too, if asked for. What there is nothing to compute from is left out.
        """
        result: dict[str, float] = {}
        if self.labels:
            margins = self.margins
            result["accuracy"] = fmean(agreement(margin, p) for margin, p in zip(margins, self.labels, strict=True))
            result["margin"] = fmean(margins)
        if self.rewards:
            rewards = torch.tensor(self.rewards, dtype=torch.float64)
            result["reward_mean"] = rewards.mean().item()
            result["reward_std"] = rewards.std(correction=0).item()
        result |= self._beside_ratings()
        if loss and self.labels:
            sides = (self.chosen, self.rejected, self.labels)
            better, worse, label = (torch.tensor(side, dtype=torch.float64) for side in sides)
            result = {"loss": bradley_terry(better, worse, label=label).mean().item(), **result}
        return result

    def _beside_ratings(self) -> dict[str, float]:
        if not self.ratings:
            return {}
        both = [pair for pair in zip(self.rewards, self.ratings, strict=True) if not math.isnan(pair[1])]
        if not both:
            return {}
        result = {"rating_loss": fmean((reward - rating) ** 2 for reward, rating in both)}
        rewards, ratings = zip(*both, strict=True)
        if min(rewards) < max(rewards) and min(ratings) < max(ratings):
            result["rating_correlation"] = correlation(rewards, ratings)
        return result


def _weighted(weights: Sequence[float], values: Sequence[float]) -> float:
    """The weighted sum of `values`."""
    return math.fsum(weight * value for weight, value in zip(weights, values, strict=True))
