"""Blocks of attention's scores: some queries by some keys, of some heads of some sequences.

Rows of a block are taken in tiles, so that most of what a causal mask removes from a block on the
diagonal is not computed at all. All arrays are (B, H, T, ...), or views of that shape.
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
) -> None:
    """scores = exp(q k^T - shift), `sums` (B, H, T, 1) those of its rows, and out = scores v.

    Args:
        causal: queries and keys are of the same positions; `scores` are then undefined above the
            tiles on the diagonal.
        shift: (B, H, T, 1); True takes each row's maximum, False nothing.
    """
    xp, keys = namespace(q), k.shape[2]
    ones = arena.constant(("ones", keys, q.dtype), lambda: xp.ones((keys, 1), q.dtype))
    for rows, stop in _tiles(q, keys, causal):
        s, r = scores[:, :, rows, :stop], sums[:, :, rows]
        _products(q, k, s, rows, stop, arena, causal)
        if shift is True:
            s.max(axis=-1, keepdims=True, out=r)
            xp.subtract(s, r, out=s)
        elif shift is not False:
            xp.subtract(s, shift[:, :, rows], out=s)
        xp.exp(s, out=s)
        xp.matmul(s, ones[:stop], out=r)
        xp.matmul(s, v[:, :, :stop], out=out[:, :, rows])


def raise_maxima(
    q: Array, k: Array, scores: Array, maxima: Array, arena: Arena, *, causal: bool
) -> None:
    """`maxima` (B, H, T, 1) become those of the rows of q k^T, where these are above them.

    `scores` are overwritten.
    """
    xp = namespace(q)
    for rows, stop in _tiles(q, k.shape[2], causal):
        s, top = scores[:, :, rows, :stop], maxima[:, :, rows]
        _products(q, k, s, rows, stop, arena, causal)
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
) -> None:
    """With e = scores:  ds = e (d v^T - inner),  dq = ds k,  dk = ds^T q,  dv = e^T d.

    `slopes`, of the shape of `scores`, is scratch memory; inner is (B, H, T, 1).
    """
    xp, queries, keys = namespace(q), q.shape[2], k.shape[2]
    for rows, stop in _tiles(q, keys, causal):
        ds = slopes[:, :, rows, :stop]
        xp.matmul(d[:, :, rows], v[:, :, :stop].swapaxes(-1, -2), out=ds)
        xp.subtract(ds, inner[:, :, rows], out=ds)
        xp.multiply(ds, scores[:, :, rows, :stop], out=ds)
        xp.matmul(ds, k[:, :, :stop], out=dq[:, :, rows])
    for columns, _ in _tiles(k, queries, causal):
        below = slice(columns.start if causal else 0, None)
        ds = slopes[:, :, below, columns]
        xp.matmul(ds.swapaxes(-1, -2), q[:, :, below], out=dk[:, :, columns])
        e = scores[:, :, below, columns]
        xp.matmul(e.swapaxes(-1, -2), d[:, :, below], out=dv[:, :, columns])


def _products(
    q: Array, k: Array, s: Array, rows: slice, stop: int, arena: Arena, causal: bool
) -> None:
    """s = q k^T of a tile, -inf where the mask is."""
    xp = namespace(q)
    xp.matmul(q[:, :, rows], k[:, :, :stop].swapaxes(-1, -2), out=s)
    if causal:
        size = rows.stop - rows.start
        diagonal = s[..., rows.start :]
        xp.add(diagonal, _mask(q, arena)[:size, :size], out=diagonal)


def _tiles(x: Array, others: int, causal: bool) -> Iterator[tuple[slice, int]]:
    """Each tile of rows, and how many of the `others` go with it; a single tile on a GPU."""
    length = x.shape[2]
    step = TILE if namespace(x) is np else length
    for start in range(0, length, step):
        stop = min(start + step, length)
        yield slice(start, stop), stop if causal else others


def _mask(q: Array, arena: Arena) -> Array:
    """Zero on and below the diagonal, -inf above, of a tile's size."""
    xp, size = namespace(q), max(rows.stop - rows.start for rows, _ in _tiles(q, 0, True))
    return arena.constant(
        ("mask", size, q.dtype), lambda: xp.triu(xp.full((size, size), -xp.inf, q.dtype), 1)
    )
