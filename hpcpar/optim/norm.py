"""The norm of the gradient, the same number in whatever order, and on however many ranks.

Squares are summed in float64 over blocks of NORM_BLOCK elements inside each parameter; these sums
are added with exact rounding (Shewchuk's algorithm, `math.fsum`), so that their order, and who
computed them, cannot matter.
"""

from collections.abc import Sequence
from math import fsum, isfinite, sqrt

import numpy as np

from hpcpar.device import Array, namespace

__all__ = [
    "NORM_BLOCK",
    "clip_scale",
    "exact_parts",
    "norm_of",
    "square_sums",
]

NORM_BLOCK = 4096
BLOCKS_AT_A_TIME = 8  # on a CPU; the float64 copy stays in cache


def square_sums(gradient: Array) -> list[float]:
    """The sum of squares of each NORM_BLOCK elements (C order) of one parameter's gradient.

    The last block may be shorter.
    """
    xp = namespace(gradient)
    flat = gradient.reshape(-1)
    whole, rest = divmod(flat.size, NORM_BLOCK)
    step = BLOCKS_AT_A_TIME if xp is np else max(1, whole)
    sums: list[float] = []
    for first in range(0, whole, step):
        last = min(first + step, whole)
        exact = flat[first * NORM_BLOCK : last * NORM_BLOCK].astype(np.float64)
        exact = exact.reshape(-1, NORM_BLOCK)
        products = np.vecdot(exact, exact) if xp is np else (exact * exact).sum(axis=1)
        sums += products.tolist()
    if rest:
        last_block = flat[whole * NORM_BLOCK :].astype(np.float64)
        sums.append(float((last_block * last_block).sum()))
    return sums


def exact_parts(sums: Sequence[float]) -> list[float]:
    """A few numbers whose exact sum is that of `sums`: what has to travel of many blocks.

    Each is the rounded rest of what the ones before it leave. Infinity or NaN stays what it is.
    """
    if not all(map(isfinite, sums)):
        return [float(np.sum(sums))]
    parts: list[float] = []
    while rest := fsum([*sums, *(-part for part in parts)]):
        parts.append(rest)
    return parts


def norm_of(sums: Sequence[float]) -> float:
    """The norm, from the sums of squares of all blocks in any order."""
    if not all(map(isfinite, sums)):
        return float(np.sum(sums))  # inf or nan; fsum would raise for inf - inf
    return sqrt(fsum(sums))


def clip_scale(norm: float, clip: float) -> float:
    """What gradients of this norm are multiplied by, so that it is at most `clip` (0: no limit)."""
    return clip / norm if 0 < clip < norm else 1.0
