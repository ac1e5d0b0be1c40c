"""Products in tiles, whose bits depend on the tiles alone: not on which of them a rank computes.

A BLAS adds up an element of a product in an order that may depend on the shape of the whole. On
many machines it does not for most shapes: an element is then the same whichever rows and columns
are computed with it. Whether that is so is tried, once for each shape, on random numbers, and where
it is the tiles are computed at once.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import prod

import numpy as np

from hpcpar.device import Array, namespace
from hpcpar.nn import Arena

__all__ = ["WHOLE", "tile_product", "tile_products"]

WHOLE = (slice(None),)
TRIED = 1 << 31  # multiplications: the tiles of larger products are large enough by themselves


def tile_products(
    a: Array, b: Array, out: Array, rows: Sequence[slice], columns: Sequence[slice], arena: Arena
) -> None:
    """out = a (M, K) @ b (K, N), each tile as if by itself.

    Args:
        rows, columns: of `out`; together they are all of it.
    """
    if isinstance(out, np.ndarray) and 1 not in out.shape and _indifferent(
        (*a.shape, b.shape[1]), _lengths(rows, len(a)), _lengths(columns, b.shape[1]),
        (_turned(a), _turned(b)), a.dtype,
    ):  # fmt: skip
        np.matmul(a, b, out=out)
        return
    for at in rows:
        for beside in columns:
            tile_product(a[at], b[:, beside], out[at, beside], arena)


def tile_product(a: Array, b: Array, out: Array, arena: Arena) -> None:
    """out = a @ b, with bits that depend on the values and the shapes alone.

    On a CPU that is so wherever matrices lie, and tiles are views. It is not where one of the
    three is a vector, and a GPU's library looks at alignments: there they are copied.
    """
    if isinstance(out, np.ndarray) and 1 not in out.shape:
        np.matmul(a, b, out=out)
        return
    left, right = arena.copy(a), arena.copy(b)
    landing = arena.take(out.shape, out.dtype)
    namespace(out).matmul(left, right, out=landing)
    out[...] = landing
    arena.give(left, right, landing)


@lru_cache(maxsize=1024)
def _indifferent(
    shape: tuple[int, int, int],
    rows: tuple[int, ...],
    columns: tuple[int, ...],
    turned: tuple[bool, bool],
    dtype: np.dtype,
) -> bool:
    """Whether a product (M, K, N) has the same bits as its tiles, of so many rows and columns."""
    if len(rows) == len(columns) == 1:
        return True
    if 1 in rows or 1 in columns or prod(shape) > TRIED:
        return False
    random = np.random.default_rng(0)
    a, b = (
        random.standard_normal(size[::-1] if other else size, np.float32).astype(dtype)
        for size, other in zip((shape[:2], shape[1:]), turned, strict=True)
    )
    a, b = (x.T if other else x for x, other in zip((a, b), turned, strict=True))
    whole = np.matmul(a, b)
    right = np.cumsum(columns)
    for stop, height in zip(np.cumsum(rows), rows, strict=True):
        for end, width in zip(right, columns, strict=True):
            tile = np.matmul(a[stop - height : stop], b[:, end - width : end])
            if not np.array_equal(tile, whole[stop - height : stop, end - width : end]):
                return False
    return True


def _lengths(tiles: Sequence[slice], extent: int) -> tuple[int, ...]:
    """How long tiles are, in the order in which they lie."""
    bounds = sorted(tile.indices(extent)[:2] for tile in tiles)
    return tuple(stop - start for start, stop in bounds)


def _turned(x: np.ndarray) -> bool:
    """Whether it is the transpose of an array in the order of C."""
    return x.strides[0] < x.strides[1]
