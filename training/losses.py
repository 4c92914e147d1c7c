"""Training losses: pure functions of reward tensors, computed in fp32 whatever the model computes in.

Each gives one loss for each comparison (or response); whoever calls weighs and sums them. Knows neither models nor
data.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def bradley_terry(
    chosen: Tensor, rejected: Tensor, margin: Tensor | None = None, label: Tensor | None = None
) -> Tensor:
    """Negative log-likelihood of the preferences: -log sigmoid(d) with d = chosen - rejected - margin.

    A soft label p weighs both outcomes: -p log sigmoid(d) - (1 - p) log sigmoid(-d); a tie is p = 0.5.

    The model of paired comparisons is Bradley & Terry's (1952, Biometrika 39); as a loss for reward models see Ouyang
    et al. (2022, arXiv 2203.02155, eq. 1), with a margin Touvron et al. (2023, arXiv 2307.09288, eq. 2), with soft
    labels, as from AI judges, Lee et al. (2023, arXiv 2309.00267).

    Args:
        chosen, rejected: [n] rewards, n > 0, any floating dtype.
        margin: [n] by how much the chosen response is better, in units of reward; None for 0.
        label: [n] probability that the chosen response is the better one; None for 1.

    Returns:
        [n], float32, or float64 where the rewards are.

    Raises:
        ValueError: the shapes differ, which would silently compare every response with every other.
    """
    _check_shapes(chosen, rejected, margin, label)
    difference = _exact(chosen) - _exact(rejected)
    if margin is not None:
        difference = difference - margin.to(difference.dtype)
    if label is None:
        return -F.logsigmoid(difference)
    p = label.to(difference.dtype)
    return -(p * F.logsigmoid(difference) + (1 - p) * F.logsigmoid(-difference))


def scaled_bradley_terry(chosen: Tensor, rejected: Tensor, margin: Tensor, label: Tensor | None = None) -> Tensor:
    """The Bradley-Terry loss times the margin: a pair that differs by two counts as two (arXiv 2410.01257, eq. 3).

    Args:
        chosen, rejected, label: as for `bradley_terry`.
        margin: [n], how much better the chosen response is, 0 or more.

    Returns:
        [n].

    Raises:
        ValueError: the shapes differ.
    """
    _check_shapes(chosen, rejected, margin, label)
    losses = bradley_terry(chosen, rejected, label=label)
    return margin.to(losses.dtype) * losses


def smoothed(label: Tensor, smoothing: float) -> Tensor:
    """Soft labels drawn towards a tie: each label is the other way round with probability `smoothing`.

    The conservative loss of Mitchell (2023, "A note on DPO with noisy preferences & relationship to IPO") for reward
    models; see also Wang et al. (2024, arXiv 2401.06080, section 3.2).

    Args:
        label: [n] probabilities.
        smoothing: within [0, 0.5).
    """
    return label * (1 - smoothing) + (1 - label) * smoothing


def centring(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(chosen + rejected)^2, [n]: draws rewards to a mean of zero (Eisenstein et al. 2023, arXiv 2312.09244, eq. 2).

    Bradley-Terry knows differences only, so that nothing else holds the rewards' level.
    """
    _check_shapes(chosen, rejected)
    return (_exact(chosen) + _exact(rejected)).square()


def regression(predicted: Tensor, ratings: Tensor) -> Tensor:
    """Mean squared error of the attributes that were rated (Wang et al. 2024, arXiv 2406.08673, section 4.1).

    Args:
        predicted: [n, k], one column for each attribute.
        ratings: [n, k], NaN where a response was not rated.

    Returns:
        [n], each the mean over the known attributes; 0 where none is known.

    Raises:
        ValueError: the shapes differ.
    """
    if predicted.shape != ratings.shape or predicted.dim() != 2:
        msg = f"{tuple(predicted.shape)} values for {tuple(ratings.shape)} ratings: they must be [n, k] both"
        raise ValueError(msg)
    values = _exact(predicted)
    known = ~ratings.isnan()
    # Not error * known: NaN times zero is NaN, in the gradient too.
    errors = torch.where(known, values - ratings.nan_to_num().to(values.dtype), 0).square()
    return errors.sum(dim=1) / known.sum(dim=1).clamp(min=1)


def _exact(rewards: Tensor) -> Tensor:
    return rewards.to(torch.promote_types(rewards.dtype, torch.float32))


def _check_shapes(*tensors: Tensor | None) -> None:
    shapes = {tuple(tensor.shape) for tensor in tensors if tensor is not None}
    (shape, *others) = sorted(shapes)
    if others or len(shape) != 1 or shape[0] == 0:
        msg = f"rewards, margin and label must be vectors of one length, at least 1; got the shapes {sorted(shapes)}"
        raise ValueError(msg)
