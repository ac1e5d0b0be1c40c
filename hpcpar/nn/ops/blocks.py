"""Cutting elementwise work into blocks that stay in a core's cache."""

import numpy as np

from hpcpar.device import Array, namespace

__all__ = ["BLOCK_ELEMENTS", "block_rows", "row_blocks"]

BLOCK_ELEMENTS = 1 << 16  # 256 KiB of float32: a few such blocks fit a level-2 cache


def row_blocks(x: Array, columns: int = 0) -> list[slice]:
    """Slices of the rows of `x` (N, C) of about BLOCK_ELEMENTS each; a single slice on a GPU.

    `columns` are those of the whole array where x is a part of one: it has the same blocks then.
    """
    rows, columns = len(x), columns or x.shape[1]
    step = _step(rows, columns, namespace(x) is np)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def block_rows(rows: int, columns: int, host: bool) -> tuple[int, int]:
    """Rows of the first block of (rows, columns), and how many blocks there are."""
    step = _step(rows, columns, host)
    return min(step, rows), -(-rows // step)


def _step(rows: int, columns: int, host: bool) -> int:
    return max(1, BLOCK_ELEMENTS // columns) if host else max(1, rows)
