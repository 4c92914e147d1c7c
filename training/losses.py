"""Training losses: pure functions of reward tensors, computed in fp32 whatever the model computes in.

Knows neither models nor data.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of the preferences: mean of -log sigmoid(chosen - rejected - margin).

    The model of paired comparisons is Bradley & Terry's (1952, Biometrika 39); as a loss for reward models see Ouyang
    et al. (2022, arXiv 2203.02155, eq. 1), with a margin Touvron et al. (2023, arXiv 2307.09288, eq. 2).

    Args:
        chosen, rejected: [n] rewards, n > 0, any floating dtype.
        margin: [n] by how much the chosen response is better, in units of reward; None for 0.

    Returns:
        A scalar: float32, or float64 where the rewards are.

    Raises:
        ValueError: the shapes differ, which would silently compare every response with every other.
    """
    shapes = {tuple(tensor.shape) for tensor in (chosen, rejected, margin) if tensor is not None}
    if len(shapes) != 1 or chosen.dim() != 1 or len(chosen) == 0:
        msg = f"rewards and margin must be vectors of one length, at least 1; got the shapes {sorted(shapes)}"
        raise ValueError(msg)
    dtype = torch.promote_types(chosen.dtype, torch.float32)
    difference = chosen.to(dtype) - rejected.to(dtype)
    if margin is not None:
        difference = difference - margin.to(dtype)
    return -F.logsigmoid(difference).mean()
