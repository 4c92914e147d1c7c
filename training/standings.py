"""How several models do on the same comparisons, side by side. Knows outcomes, not models."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from reward_model.calibration import agreement
from training.outcomes import Outcomes
from training.statistics import Accuracy, accuracy


@dataclass(frozen=True, slots=True)
class Standing:
    """One model's result.

    Attributes:
        name: of the model.
        accuracy: with its interval.
        loss: Bradley-Terry, in nats; depends on the rewards' scale, as accuracy does not.
        reward_std: standard deviation of its rewards.
    """

    name: str
    accuracy: Accuracy
    loss: float
    reward_std: float

    @classmethod
    def of(cls, name: str, outcomes: Outcomes, prompts: Sequence[Hashable]) -> "Standing":
        """The result of `outcomes`, one or more comparisons, with the prompt of each."""
        metrics = outcomes.metrics(loss=True)
        agreements = [agreement(*pair) for pair in zip(outcomes.margins, outcomes.labels, strict=True)]
        return cls(name, accuracy(agreements, prompts), metrics["loss"], metrics["reward_std"])


def table(standings: Sequence[Standing]) -> str:
    """One line for each model, in order."""
    width = max(len(one.name) for one in standings)
    lines = [f"{'':{width}}  accuracy     95 % interval    loss  reward std"]
    for one in standings:
        low, high = one.accuracy.accuracy_interval
        lines.append(
            f"{one.name:{width}}  {one.accuracy.accuracy:8.1%}  {low:6.1%} to {high:6.1%}"
            f"  {one.loss:6.4f}  {one.reward_std:10.4f}"
        )
    return "\n".join(lines)


def ensemble(members: Sequence[Outcomes], weights: Sequence[float]) -> Outcomes:
    """What one would get from the weighted mean of the members' rewards.

    Args:
        members: of the same comparisons.
        weights: one for each; only their proportions count.
    """

    def mean(lists: Sequence[Sequence[float]]) -> list[float]:
        values: list[float] = np.average(np.asarray(lists), axis=0, weights=weights).tolist()
        return values

    return Outcomes(
        chosen=mean([one.chosen for one in members]),
        rejected=mean([one.rejected for one in members]),
        labels=members[0].labels,
        rewards=mean([one.rewards for one in members]),
    )
