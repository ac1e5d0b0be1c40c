"""The blocks that the squares of a gradient are added up in, whoever holds which part of it. Pure.

A block lies inside one parameter and, where ranks share it tile by tile, inside one tile: so it is
the same numbers in the same order on any layout. Blocks of whole rows have NORM_BLOCK elements; of
a tensor that is cut along its columns, each row of each tile is a block.
"""

from collections.abc import Iterator
from math import prod

import numpy as np

from hpcpar.device import Array, namespace
from hpcpar.nn import Cut, Parameter
from hpcpar.optim import NORM_BLOCK, square_sums

__all__ = ["block_ends", "block_sums"]


def block_ends(shape: tuple[int, ...], cut: Cut | None) -> list[int]:
    """Where slices of a parameter may end, in elements of what is held: after whole blocks."""
    if cut is not None and cut.axis == 1:
        rows, width = shape
        return [(row + 1) * width for row in range(rows)]
    ends = []
    for tile in _tiles(shape, cut):
        ends += [*range(tile.start + NORM_BLOCK, tile.stop, NORM_BLOCK), tile.stop]
    return ends


def block_sums(parameter: Parameter, gradient: Array, run: range) -> list[float]:
    """The sums of squares of the blocks of `gradient`, which is the part `run` of a parameter."""
    cut = parameter.cut
    if cut is None or cut.axis == 0:
        sums: list[float] = []
        for tile in _tiles(parameter.shape, cut):
            first, last = max(run.start, tile.start), min(run.stop, tile.stop)
            if first < last:
                sums += square_sums(gradient[first - run.start : last - run.start])
        return sums
    xp, at, found = namespace(gradient), 0, []
    rows = gradient.reshape(-1, parameter.shape[1])
    for tile in cut.runs:
        exact = rows[:, at : at + len(tile)].astype(np.float64)
        products = np.vecdot(exact, exact) if xp is np else (exact * exact).sum(axis=1)
        found += products.tolist()
        at += len(tile)
    return found


def _tiles(shape: tuple[int, ...], cut: Cut | None) -> Iterator[range]:
    """The tiles along the first axis, in elements; all of it where it is not cut."""
    if cut is None:
        yield range(prod(shape))
        return
    row, at = prod(shape[1:]), 0
    for tile in cut.runs:
        yield range(at, at + len(tile) * row)
        at += len(tile) * row
