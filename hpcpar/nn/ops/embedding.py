"""Rows of a table, picked by token; and the sum of gradients by token on the way back.

The sum goes over the tokens of the micro-batch in a fixed order: a scatter with atomic additions
would not give the same bits twice.
"""

import numpy as np

from hpcpar.device import Array, namespace
from hpcpar.nn.arena import Arena

__all__ = ["backward", "forward", "forward_part"]


def forward(tokens: Array, table: Array, out: Array) -> None:
    """out (N, C) = table (V, C) at tokens (N,).

    Raises `ValueError` for a token outside the table (not on a GPU, which would have to wait).
    """
    if namespace(table) is not np:
        namespace(table).take(table, tokens, axis=0, out=out)
        return
    _check(tokens, len(table))
    np.take(table, tokens, axis=0, out=out, mode="clip")  # checked above; "raise" would copy


def forward_part(tokens: Array, part: Array, first: int, vocabulary: int, out: Array) -> None:
    """As `forward`, with the rows of the table from `first` on that are in `part`.

    Where a token's row is not there, `out` is -0, to which any number can be added as it is (0
    would make 0 of -0).
    """
    xp = namespace(part)
    place = xp.clip(tokens, first, first + len(part) - 1)
    away = place != tokens
    xp.subtract(place, first, out=place)
    if xp is np:
        _check(tokens, vocabulary)
        np.take(part, place, axis=0, out=out, mode="clip")
    else:
        xp.take(part, place, axis=0, out=out)
    out[away] = -0.0


def _check(tokens: Array, vocabulary: int) -> None:
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < vocabulary:
        raise ValueError(
            f"tokens run from {tokens.min()} to {tokens.max()}, the vocabulary from 0 to "
            f"{vocabulary - 1}"
        )


def backward(tokens: Array, dy: Array, dtable: Array, arena: Arena, first: int = 0) -> None:
    """dtable (V, C): row t is the sum of dy (N, C) where tokens (N,) is `first` + t."""
    xp = namespace(dy)
    order = xp.argsort(tokens, kind="stable")
    if xp is not np:
        _sum_segments_on_gpu(tokens[order], order, dy, dtable, first)
        return
    token = tokens[order]
    low, high = np.searchsorted(token, (first, first + len(dtable)))
    token = token[low:high]
    starts = np.flatnonzero(np.diff(token, prepend=-1))  # where another token begins
    stops = np.append(starts, len(token))[1:]
    rows = arena.take(dy.shape, dy.dtype)
    np.take(dy, order[low:high], axis=0, out=rows[: high - low], mode="clip")
    dtable.fill(0)
    # np.add.reduceat does the same in five times the time of this loop
    for row, start, stop in zip(token[starts] - first, starts, stops, strict=True):
        np.add.reduce(rows[start:stop], axis=0, out=dtable[row])
    arena.give(rows)


def _sum_segments_on_gpu(token: Array, order: Array, dy: Array, dtable: Array, first: int) -> None:
    """One thread for each element of dtable, which adds up its tokens' gradients in order."""
    xp = namespace(dy)
    rows, columns = dtable.shape
    bounds = xp.searchsorted(token, xp.arange(first, first + rows + 1, dtype=token.dtype))
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
