"""Blocks of attention's scores: some queries by some keys, of some heads of some sequences.

Rows of a block are taken in tiles, so that most of what a causal mask removes from a block on the
diagonal is not computed at all. All arrays are (B, H, T, ...), or views of that shape.

Queries of a document attend to no key before it: `starts`, int32 (B, T), is the first key of each
query, and does not fall from one query to the next. Tiles of keys before that are not computed
either. Numbers below zero stand for the first of all, numbers beyond the keys for none of them.
None is for queries that attend to all keys that they may.
"""

from collections.abc import Iterator

import numpy as np

from hpcpar.device import Array, namespace
from hpcpar.nn.arena import Arena

__all__ = ["TILE", "exponentials", "gradients", "raise_maxima"]

TILE = 64  # rows of scores at a time on a CPU


def exponentials(
    q: Array,
    k: Array,
    v: Array,
    scores: Array,
    sums: Array,
    out: Array,
    arena: Arena,
    *,
    causal: bool,
    shift: "Array | bool",
    starts: "Array | None" = None,
) -> None:
    """scores = exp(q k^T - shift), `sums` (B, H, T, 1) those of its rows, and out = scores v.

    `scores` are undefined in tiles that are not computed.

    Args:
        causal: queries and keys are of the same positions.
        shift: (B, H, T, 1); True takes each row's maximum, False nothing.
    """
    xp, keys = namespace(q), k.shape[2]
    ones = arena.constant(("ones", keys, q.dtype), lambda: xp.ones((keys, 1), q.dtype))
    for rows, columns in _tiles(q, keys, causal, starts):
        s, r = scores[:, :, rows, columns], sums[:, :, rows]
        _products(q, k, s, rows, columns, arena, causal, starts)
        if shift is True:
            s.max(axis=-1, keepdims=True, out=r)
            xp.subtract(s, r, out=s)
        elif shift is not False:
            xp.subtract(s, shift[:, :, rows], out=s)
        xp.exp(s, out=s)
        xp.matmul(s, ones[: s.shape[-1]], out=r)
        xp.matmul(s, v[:, :, columns], out=out[:, :, rows])


def raise_maxima(
    q: Array,
    k: Array,
    scores: Array,
    maxima: Array,
    arena: Arena,
    *,
    causal: bool,
    starts: "Array | None" = None,
) -> None:
    """`maxima` (B, H, T, 1) become those of the rows of q k^T, where these are above them.

    `scores` are overwritten.
    """
    xp = namespace(q)
    for rows, columns in _tiles(q, k.shape[2], causal, starts):
        s, top = scores[:, :, rows, columns], maxima[:, :, rows]
        _products(q, k, s, rows, columns, arena, causal, starts)
        xp.maximum(top, s.max(axis=-1, keepdims=True), out=top)


def gradients(
    d: Array,
    inner: Array,
    q: Array,
    k: Array,
    v: Array,
    scores: Array,
    slopes: Array,
    dq: Array,
    dk: Array,
    dv: Array,
    *,
    causal: bool,
    starts: "Array | None" = None,
) -> None:
    """With e = scores:  ds = e (d v^T - inner),  dq = ds k,  dk = ds^T q,  dv = e^T d.

    `slopes`, of the shape of `scores`, is scratch memory; inner is (B, H, T, 1).
    """
    xp, queries, keys = namespace(q), q.shape[2], k.shape[2]
    tiles = list(_tiles(q, keys, causal, starts))
    for rows, columns in tiles:
        ds = slopes[:, :, rows, columns]
        xp.matmul(d[:, :, rows], v[:, :, columns].swapaxes(-1, -2), out=ds)
        xp.subtract(ds, inner[:, :, rows], out=ds)
        xp.multiply(ds, scores[:, :, rows, columns], out=ds)
        xp.matmul(ds, k[:, :, columns], out=dq[:, :, rows])
    for columns, _ in _tiles(k, queries, causal):
        # The queries of tiles that these keys were computed for: a run, for starts do not fall.
        after = (rows.start for rows, reached in tiles if reached.start > columns.start)
        below = slice(columns.start if causal else 0, next(after, queries))
        ds = slopes[:, :, below, columns]
        xp.matmul(ds.swapaxes(-1, -2), q[:, :, below], out=dk[:, :, columns])
        e = scores[:, :, below, columns]
        xp.matmul(e.swapaxes(-1, -2), d[:, :, below], out=dv[:, :, columns])


def _products(
    q: Array,
    k: Array,
    s: Array,
    rows: slice,
    columns: slice,
    arena: Arena,
    causal: bool,
    starts: "Array | None",
) -> None:
    """s = q k^T of a tile, -inf where the masks are."""
    xp = namespace(q)
    xp.matmul(q[:, :, rows], k[:, :, columns].swapaxes(-1, -2), out=s)
    if causal:
        size = rows.stop - rows.start
        diagonal = s[..., rows.start - columns.start :]
        xp.add(diagonal, _mask(q, arena)[:size, :size], out=diagonal)
    if starts is not None:
        first = starts[:, None, rows, None]  # (B, 1, T, 1)
        if xp is not np or int(first.max()) > columns.start:
            count = k.shape[2]
            keys = arena.constant(("keys", count), lambda: xp.arange(count, dtype=np.int32))
            xp.copyto(s, -np.inf, where=keys[columns] < first)


def _tiles(
    x: Array, others: int, causal: bool, starts: "Array | None" = None
) -> Iterator[tuple[slice, slice]]:
    """Each tile of rows, and those of the `others` that go with it; a single tile on a GPU."""
    xp, length = namespace(x), x.shape[2]
    step = TILE if xp is np else length
    for start in range(0, length, step):
        rows = slice(start, min(start + step, length))
        stop, first = rows.stop if causal else others, 0
        if starts is not None and xp is np:  # from a tile's beginning; at least the last one
            first = max(min(int(starts[:, start].min()), stop - 1) // step * step, 0)
        yield rows, slice(first, stop)


def _mask(q: Array, arena: Arena) -> Array:
    """Zero on and below the diagonal, -inf above, of a tile's size."""
    xp, size = namespace(q), max(rows.stop - rows.start for rows, _ in _tiles(q, 0, True))
    return arena.constant(
        ("mask", size, q.dtype), lambda: xp.triu(xp.full((size, size), -xp.inf, q.dtype), 1)
    )
