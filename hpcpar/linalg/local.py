"""The products that one rank computes by itself, on NumPy or CuPy arrays.

16-bit numbers are multiplied and added up in float32 (`comm.perform.wide_dtype`).
"""

from typing import Any

import numpy as np

from hpcpar.device import Array, namespace

__all__ = ["add_product", "product", "tile_products"]


def product(a: Array, b: Array, out: Array) -> None:
    """out = a @ b; `out` has their `wide_dtype`, and what it held is not read."""
    if a.shape[1] == 0:
        out[...] = 0
        return
    namespace(out).matmul(_widened(a), _widened(b), out=out)


def add_product(a: Array, b: Array, out: Array, scratch: Array) -> None:
    """out += a @ b, by rows: as many at a time as `scratch`, of any rows and out's columns, has."""
    xp = namespace(out)
    left, right, step = _widened(a), _widened(b), max(1, len(scratch))
    for start in range(0, len(out), step):
        part = out[start : start + step]
        landing = scratch[: len(part)]
        xp.matmul(left[start : start + step], right, out=landing)
        xp.add(part, landing, out=part)


def tile_products(a: Array, b: Array, out: Array, height: int, width: int) -> None:
    """out = a @ b by tiles of out, of `height` x `width`, each a product of its own.

    Every tile's operands are copied to contiguous memory first, so a tile's bits depend on nothing
    but its values and its shape.
    """
    xp = namespace(out)
    columns = [
        xp.ascontiguousarray(b[:, at : at + width], out.dtype)
        for at in range(0, out.shape[1], width)
    ]
    for top in range(0, len(out), height):
        row = xp.ascontiguousarray(a[top : top + height], out.dtype)
        for number, column in enumerate(columns):
            left = number * width
            landing = xp.empty((len(row), column.shape[1]), out.dtype)
            xp.matmul(row, column, out=landing)
            out[top : top + len(row), left : left + column.shape[1]] = landing


def _widened(array: Array) -> Any:
    return array.astype(np.float32) if array.dtype.itemsize == 2 else array
