"""Locally weighted regression: the smooth course of one quantity over another, whatever its shape.

Cleveland 1979, "Robust Locally Weighted Regression and Smoothing Scatterplots", JASA 74: local lines with tricube
weights, then the same again with less weight for what lies far off. Evaluated at a few places rather than at all
points, between which it is taken to be linear. Knows numbers, not what they mean.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Values of weights that are held at a time.
_BLOCK = 2**22


def lowess(x: Floats, y: Floats, places: Floats, *, fraction: float, iterations: int) -> Floats:
    """The course of `y` over `x` at `places`.

    Args:
        x, y: points, [n], one or more, finite, in any order.
        places: where, [k], ascending.
        fraction: of the points that a local line is fitted to, the nearest ones; in (0, 1].
        iterations: how often points that lie far off get less weight.

    Returns:
        [k].
    """
    trust = np.ones_like(y)
    curve = _local_lines(x, y, trust, places, fraction)
    for _ in range(iterations):
        off = np.abs(y - np.interp(x, places, curve))
        scale = 6 * np.median(off)
        # Where most points lie on the curve there is nothing to measure the others by.
        if scale <= 1e-12 * np.abs(y).max():
            break
        trust = _bisquare(off / scale)
        curve = _local_lines(x, y, trust, places, fraction)
    return curve


def _local_lines(x: Floats, y: Floats, trust: Floats, places: Floats, fraction: float) -> Floats:
    """At each place the value of the line fitted around it, [k]."""
    nearest = max(1, min(len(x), round(fraction * len(x))))
    rows = max(1, _BLOCK // len(x))
    blocks = [places[start : start + rows, None] for start in range(0, len(places), rows)]
    return np.concatenate([_block(x, y, trust, block, nearest) for block in blocks])


def _block(x: Floats, y: Floats, trust: Floats, places: Floats, nearest: int) -> Floats:
    """The same for places [b, 1] at once."""
    distance = np.abs(x - places)
    reach = np.partition(distance, nearest - 1, axis=1)[:, nearest - 1, None]
    # Ties with the place itself may be all there is within reach.
    near = np.divide(distance, reach, out=(distance > 0).astype(np.float64), where=reach > 0)
    tricube = (1 - np.minimum(near, 1) ** 3) ** 3
    # All that is near may lie at the very edge, half of it being of one length: then the edge is within reach.
    nothing = tricube.sum(axis=1, keepdims=True) == 0
    tricube = np.where(nothing, distance <= reach, tricube)
    weights = tricube * trust
    # Around a place where nothing is to be trusted, everything is.
    weights = np.where(weights.sum(axis=1, keepdims=True) > 0, weights, tricube)
    weights /= weights.sum(axis=1, keepdims=True)
    from_place = x - places
    centre = (weights * from_place).sum(axis=1, keepdims=True)
    level = weights @ y
    offset = from_place - centre
    variance = (weights * offset**2).sum(axis=1)
    slope = np.divide(
        (weights * offset) @ y,
        variance,
        out=np.zeros_like(level),
        where=variance > 1e-12 * np.square(reach[:, 0]),
    )
    values: Floats = level - slope * centre[:, 0]
    return values


def _bisquare(off: Floats) -> Floats:
    weights: Floats = (1 - np.minimum(off, 1) ** 2) ** 2
    return weights
