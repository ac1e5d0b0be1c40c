"""Rows of a table, picked by token; and the sum of gradients by token on the way back.

The sum goes over the tokens of the micro-batch in a fixed order: a scatter with atomic additions
would not give the same bits twice.
"""

import numpy as np

from hpcpar.device import Array, namespace
from hpcpar.nn.arena import Arena

__all__ = ["backward", "forward"]


def forward(tokens: Array, table: Array, out: Array) -> None:
    """out (N, C) = table (V, C) at tokens (N,).

    Raises `ValueError` for a token outside the table (not on a GPU, which would have to wait).
    """
    if namespace(table) is not np:
        namespace(table).take(table, tokens, axis=0, out=out)
        return
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < len(table):
        raise ValueError(
            f"tokens run from {tokens.min()} to {tokens.max()}, the vocabulary from 0 to "
            f"{len(table) - 1}"
        )
    np.take(table, tokens, axis=0, out=out, mode="clip")  # checked above; "raise" would copy


def backward(tokens: Array, dy: Array, dtable: Array, arena: Arena) -> None:
    """dtable (V, C): row t is the sum of dy (N, C) where tokens (N,) is t."""
    xp = namespace(dy)
    order = xp.argsort(tokens, kind="stable")
    if xp is not np:
        _sum_segments_on_gpu(tokens[order], order, dy, dtable)
        return
    token = tokens[order]
    starts = np.flatnonzero(np.diff(token, prepend=-1))  # where another token begins
    stops = np.append(starts[1:], len(token))
    rows = arena.take(dy.shape, dy.dtype)
    np.take(dy, order, axis=0, out=rows, mode="clip")
    dtable.fill(0)
    # np.add.reduceat does the same in five times the time of this loop
    for row, start, stop in zip(token[starts], starts, stops, strict=True):
        np.add.reduce(rows[start:stop], axis=0, out=dtable[row])
    arena.give(rows)


def _sum_segments_on_gpu(token: Array, order: Array, dy: Array, dtable: Array) -> None:
    """One thread for each element of dtable, which adds up its tokens' gradients in order."""
    xp = namespace(dy)
    rows, columns = dtable.shape
    bounds = xp.searchsorted(token, xp.arange(rows + 1, dtype=token.dtype))
    kernel = xp.ElementwiseKernel(
        "raw T dy, raw int64 order, raw int64 bounds, int64 columns",
        "T sum",
        """
        long long row = i / columns, column = i % columns;
        T total = 0;
        for (long long j = bounds[row]; j < bounds[row + 1]; ++j)
            total += dy[order[j] * columns + column];
        sum = total;
        """,
        "hpcpar_sum_segments",
    )
    kernel(dy, order, bounds, columns, dtable)
