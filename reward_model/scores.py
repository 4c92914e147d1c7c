"""What the model says about one input, and how several labels become one reward.

Knows neither how a score is computed nor what it will be compared with.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Score:
    """A reward that is not normalised, in the units the model was trained in.

    Attributes:
        value: the scalar reward, calibrated by the response's length where the checkpoint is; may be non-finite when
            the model misbehaves, which the caller must check.
        attributes: the heads' outputs by name, as they are, for multi-attribute models only.
        reused_tokens: how many of the input's tokens were computed for another one of the same batch.
    """

    value: float
    attributes: dict[str, float] | None = None
    reused_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Scalarisation:
    """One reward from the labels of a head: their weighted sum.

    Attributes:
        names: one per label.
        weights: one per label.
    """

    names: tuple[str, ...] = ("reward",)
    weights: tuple[float, ...] = (1.0,)
