"""Training losses: pure functions of reward tensors, computed in fp32 whatever the model computes in.

Knows neither models nor data.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def bradley_terry(
    chosen: Tensor, rejected: Tensor, margin: Tensor | None = None, label: Tensor | None = None
) -> Tensor:
    """Negative log-likelihood of the preferences: mean of -log sigmoid(d) with d = chosen - rejected - margin.

    A soft label p weighs both outcomes: -p log sigmoid(d) - (1 - p) log sigmoid(-d).

    The model of paired comparisons is Bradley & Terry's (1952, Biometrika 39); as a loss for reward models see Ouyang
    et al. (2022, arXiv 2203.02155, eq. 1), with a margin Touvron et al. (2023, arXiv 2307.09288, eq. 2).

    Args:
        chosen, rejected: [n] rewards, n > 0, any floating dtype.
        margin: [n] by how much the chosen response is better, in units of reward; None for 0.
        label: [n] probability that the chosen response is the better one, as from AI judges (Lee et al. 2023, arXiv
            2309.00267); None for 1.

    Returns:
        A scalar: float32, or float64 where the rewards are.

    Raises:
        ValueError: the shapes differ, which would silently compare every response with every other.
    """
    shapes = {tuple(tensor.shape) for tensor in (chosen, rejected, margin, label) if tensor is not None}
    if len(shapes) != 1 or chosen.dim() != 1 or len(chosen) == 0:
        msg = f"rewards, margin and label must be vectors of one length, at least 1; got the shapes {sorted(shapes)}"
        raise ValueError(msg)
    dtype = torch.promote_types(chosen.dtype, torch.float32)
    difference = chosen.to(dtype) - rejected.to(dtype)
    if margin is not None:
        difference = difference - margin.to(dtype)
    if label is None:
        return -F.logsigmoid(difference).mean()
    p = label.to(dtype)
    return -(p * F.logsigmoid(difference) + (1 - p) * F.logsigmoid(-difference)).mean()
