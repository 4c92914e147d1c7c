"""What training minimises: a loss over the values that a model gives to the sequences of a pack.

Knows losses and packs, neither models nor flags.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from training import losses
from training.batches import Pack
from training.examples import Example

LossType = Literal["bradley_terry", "scaled_bradley_terry", "regression"]


class UnfitData(ValueError):
    """The data lack what the objective needs; the message says what and where."""


@dataclass(frozen=True, slots=True)
class Objective:
    """The loss of a pack, and what data it takes.

    Attributes:
        loss_type: how a comparison (or a rated response) is judged; see `training.losses`.
        label_smoothing: how often a label is taken to be wrong, within [0, 0.5).
        centring: coefficient of `losses.centring`.
    """

    loss_type: LossType = "bradley_terry"
    label_smoothing: float = 0.0
    centring: float = 0.0

    def check(self, example: Example) -> None:
        """Raises UnfitData where `example` cannot be learned from this way."""
        if self.loss_type == "scaled_bradley_terry":
            for one in example.comparisons:
                if one.margin is None or one.margin < 0:
                    stated = "none" if one.margin is None else one.margin
                    msg = f"scaled_bradley_terry needs margins of 0 or more; at line {example.line}: {stated}"
                    raise UnfitData(msg)

    def __call__(self, values: Tensor, rewards: Tensor, pack: Pack) -> Tensor:
        """What the pack adds to the sum that a step's mean loss is made of, `Step.count` being what it is divided by.

        Of comparisons each example's mean loss; of ratings each response's loss, so that it does not matter which
        responses stand together.

        Args:
            values: [n, k], what the head gives to each sequence.
            rewards: [n], one number made of them.
            pack: the sequences, on any device.
        """
        if self.loss_type == "regression":
            return losses.regression(values, pack.ratings.to(values.device)).sum()
        chosen, rejected = (rewards[index.to(rewards.device)] for index in (pack.chosen, pack.rejected))
        per_pair = self._compare(chosen, rejected, pack)
        if self.centring:
            per_pair = per_pair + self.centring * losses.centring(chosen, rejected)
        return (per_pair * pack.weight.to(per_pair.device)).sum()

    def _compare(self, chosen: Tensor, rejected: Tensor, pack: Pack) -> Tensor:
        margin, label = (one.to(chosen.device) for one in (pack.margin, pack.label))
        label = losses.smoothed(label, self.label_smoothing)
        if self.loss_type == "scaled_bradley_terry":
            return losses.scaled_bradley_terry(chosen, rejected, margin, label)
        return losses.bradley_terry(chosen, rejected, margin.nan_to_num(), label)
