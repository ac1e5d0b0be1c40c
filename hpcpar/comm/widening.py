"""Sums that are wider than the arrays, and what is left to do when everything was added."""

from collections.abc import Callable
from functools import partial

import numpy as np

from hpcpar.comm.perform import divide, wide_dtype
from hpcpar.device import Array, namespace

__all__ = ["ending", "narrowed", "widens"]


def ending(op: str, target: Array, ranks: int) -> Callable[[], object] | None:
    """What is left to do when everything was added."""
    return partial(divide, target, ranks) if op == "mean" else None


def widens(dtype: np.dtype, op: str, ranks: int) -> bool:
    """Whether sums are wider than the arrays: 16-bit floating-point numbers go by float32.

    They are rounded once, at the end. The sum of two is rounded once anyway; a mean is not.
    """
    return wide_dtype(dtype) != dtype and (ranks > 2 or op == "mean")


def narrowed(
    source: Array, target: Array, op: str, ranks: int, apart: bool = False
) -> tuple[Array, Array, Callable[[], object] | None]:
    """What is added instead of `source`, where that goes, and how it ends.

    The two are one array where they have one shape, unless they have to be `apart`.
    """
    if not widens(source.dtype, op, ranks):
        return source, target, ending(op, target, ranks)
    total = source.astype(wide_dtype(source.dtype))
    in_place = target.shape == source.shape and not apart
    landing = total if in_place else namespace(total).empty(target.shape, total.dtype)

    def end() -> None:
        if op == "mean":
            divide(landing, ranks)
        target[...] = landing

    return total, landing, end
