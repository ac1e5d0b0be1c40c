"""The norm of the gradient, the same number in whatever order, and on however many ranks.

Squares are summed in float64 over blocks of NORM_BLOCK elements inside each parameter; these sums
are added with exact rounding (Shewchuk's algorithm, `math.fsum`), so that their order, and who
computed them, cannot matter.
"""

from collections.abc import Iterable, Mapping
from math import fsum, isfinite, sqrt

import numpy as np

from hpcpar.device import Array, namespace

__all__ = ["NORM_BLOCK", "clip_scale", "global_norm", "square_sums"]

NORM_BLOCK = 4096
BLOCKS_AT_A_TIME = 8  # on a CPU; the float64 copy stays in cache


def square_sums(gradient: Array) -> list[float]:
    """The sum of squares of each NORM_BLOCK elements (C order) of one parameter's gradient."""
    xp = namespace(gradient)
    flat = gradient.reshape(-1)
    whole = flat.size // NORM_BLOCK
    step = BLOCKS_AT_A_TIME if xp is np else max(1, whole)
    sums: list[float] = []
    for first in range(0, whole, step):
        last = min(first + step, whole)
        blocks = flat[first * NORM_BLOCK : last * NORM_BLOCK].reshape(-1, NORM_BLOCK)
        squares = blocks.astype(np.float64)
        xp.multiply(squares, squares, out=squares)
        sums += squares.sum(axis=1).tolist()
    rest = flat[whole * NORM_BLOCK :].astype(np.float64)
    if rest.size:
        sums.append(float((rest * rest).sum()))
    return sums


def global_norm(gradients: Mapping[str, Array], names: Iterable[str] | None = None) -> float:
    """The 2-norm over all gradients, or those of `names` (so that tied uses count once).

    Infinity or NaN if there is one in the gradients.
    """
    chosen = gradients if names is None else names
    sums = [s for name in chosen for s in square_sums(gradients[name])]
    if not all(map(isfinite, sums)):
        return float(np.sum(sums))  # inf or nan; fsum would raise for inf - inf
    return sqrt(fsum(sums))


def clip_scale(norm: float, clip: float) -> float:
    """What gradients of this norm are multiplied by, so that it is at most `clip` (0: no limit)."""
    return clip / norm if 0 < clip < norm else 1.0
