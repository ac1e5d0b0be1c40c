"""Copies of parts of a block: runs of rows and of columns, each with its place here and there."""

from collections.abc import Sequence

import numpy as np

from hpcpar.device import Array, namespace

__all__ = ["SLICE", "Part", "copy_parts", "extent", "joined", "slices"]

Part = tuple[range, int, int]  # of one axis: elements, their place here and there

SLICE = 1 << 14  # elements that are brought to temporary memory at a time
PIECE = 256  # elements from which on a copy of their own costs less than an index for each


def copy_parts(into: Array, block: Array, rows: Sequence[Part], columns: Sequence[Part]) -> None:
    """Copy parts of a block to their places in `into`.

    Piece by piece; many small pieces, as of block-cyclic layouts, by index arrays, some rows at a
    time.
    """
    height, width = extent(rows), extent(columns)
    pieces = len(rows) * len(columns)
    if pieces <= 4 or height * width >= PIECE * pieces:
        for down, r, at in rows:
            for across, c, there in columns:
                into[at : at + len(down), there : there + len(across)] = block[
                    r : r + len(down), c : c + len(across)
                ]
        return
    xp = namespace(into)
    (r, at), (c, there) = (map(xp.asarray, _numbers(parts)) for parts in (rows, columns))
    for start in range(0, height, step := max(1, SLICE // width)):
        few = slice(start, start + step)
        if len(columns) == 1:
            _, left, right = columns[0]
            into[at[few], right : right + width] = block[r[few], left : left + width]
        else:
            into[at[few, None], there] = block[r[few, None], c]


def joined(parts: Sequence[Part], here: bool) -> list[Part]:
    """The parts with places that follow each other: `here`, or else there."""
    found, place = [], 0
    for run, one, other in parts:
        found.append((run, place, other) if here else (run, one, place))
        place += len(run)
    return found


def extent(parts: Sequence[Part]) -> int:
    """Elements of all parts."""
    return sum(len(part[0]) for part in parts)


def slices(shape: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Cuts a block in pieces of at most `SLICE` elements."""
    height, width = shape
    across = max(1, min(width, SLICE))
    down = max(1, SLICE // across)
    return [
        (slice(top, top + down), slice(left, left + across))
        for top in range(0, height, down)
        for left in range(0, width, across)
    ]


def _numbers(parts: Sequence[Part]) -> tuple[np.ndarray, np.ndarray]:
    """The places of all elements, here and there."""
    lengths = np.array([len(run) for run, _, _ in parts])
    inside = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    here, there = (np.repeat([part[i] for part in parts], lengths) + inside for i in (1, 2))
    return here, there
