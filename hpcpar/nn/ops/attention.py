"""Causal self-attention, all heads, straight on the fused projection.

Queries, keys and values are read where they lie in `qkv`, and heads are written where they belong:
nothing is transposed or copied. Rows of scores are taken in tiles, so that most of the half that
the mask removes is not computed at all. Scores are not divided by their sums; the much smaller
outputs are (FlashAttention-2, Dao, arXiv:2307.08691, section 3.1).
"""

from collections.abc import Iterator, Sequence
from math import sqrt

import numpy as np

from hpcpar.device import Array, namespace
from hpcpar.nn.arena import Arena

__all__ = ["TILE", "backward", "forward"]

TILE = 64  # rows of scores at a time on a CPU
SMALL, LARGE = 1e-20, 1e30  # sums of exponentials that are as good as those of shifted scores


def forward(
    qkv: Array, b: Array, heads: int, out: Array, scores: Array, inverse: Array, arena: Arena
) -> None:
    """out (B, T, C) = softmax(q k^T / sqrt(C / heads), causal) v for each of the heads.

    qkv (B, T, 3 C): b (3 C,) is added to it, and q in it becomes q / sqrt(C / heads). For
    `backward`: `scores` (B, H, T, T) become exponentials, undefined above the tiles on the
    diagonal, and `inverse` (B, H, T, 1) one over the sums of their rows.
    """
    xp = namespace(qkv)
    q, k, v = _split(qkv, heads)
    o = _heads(out, heads)
    for one in _sequences(qkv):
        xp.add(qkv[one], b, out=qkv[one])
        xp.multiply(q[one], 1 / sqrt(q.shape[-1]), out=q[one])
        parts = q[one], k[one], v[one], o[one], scores[one], inverse[one]
        unsafe = [slice(None)]
        if xp is np:
            with np.errstate(over="ignore", invalid="ignore"):
                _exponentials(parts, arena, shift=False)
            unsafe = _unsafe(inverse[one])
        for head in unsafe:
            _exponentials([part[:, head] for part in parts], arena, shift=True)
        xp.reciprocal(inverse[one], out=inverse[one])
        xp.multiply(o[one], inverse[one], out=o[one])


def _exponentials(parts: Sequence[Array], arena: Arena, shift: bool) -> None:
    """scores = exp(q k^T - shift), its row sums, and o = scores v.

    `parts` are q, k, v, o, scores and sums, all (B, H, T, ...).

    The shift of a softmax is the row's maximum: no exponential overflows, and one of them is 1. But
    few models ever need it, and finding and subtracting it takes a quarter of the time. So a CPU
    first goes without (shift=False); the sums then tell for which heads that was safe.
    """
    q, k, v, o, scores, sums = parts
    xp, length = namespace(q), q.shape[2]
    ones = arena.constant(("ones", length, q.dtype), lambda: xp.ones((length, 1), q.dtype))
    mask = _mask(q, arena)
    for start, stop in _tiles(q):
        rows, tile = slice(start, stop), stop - start
        s, r = scores[:, :, rows, :stop], sums[:, :, rows]
        xp.matmul(q[:, :, rows], k[:, :, :stop].swapaxes(-1, -2), out=s)
        diagonal = s[..., start:]
        xp.add(diagonal, mask[:tile, :tile], out=diagonal)
        if shift:
            s.max(axis=-1, keepdims=True, out=r)
            xp.subtract(s, r, out=s)
        xp.exp(s, out=s)
        xp.matmul(s, ones[:stop], out=r)
        xp.matmul(s, v[:, :, :stop], out=o[:, :, rows])


def _unsafe(sums: Array) -> list[slice]:
    """The heads whose sums (B, H, T, 1) say that their scores have to be shifted.

    Each is judged by itself: its bits do not depend on which other heads are computed with it.
    """
    axes = (0, 2, 3)
    safe = (sums.min(axis=axes) > SMALL) & (sums.max(axis=axes) < LARGE)
    return [slice(head, head + 1) for head in np.flatnonzero(~safe)]


def backward(
    dout: Array,
    out: Array,
    qkv: Array,
    heads: int,
    scores: Array,
    inverse: Array,
    dqkv: Array,
    arena: Arena,
) -> None:
    """dqkv (B, T, 3 C) from dout (B, T, C), which is overwritten; the rest as `forward` left it.

    With e = scores and d = dout / sum(e):  dv = e^T d,  ds = e (d v^T - sum(d out)).
    """
    xp = namespace(qkv)
    q, k, v = _split(qkv, heads)
    dq, dk, dv = _split(dqkv, heads)
    d, o = _heads(dout, heads), _heads(out, heads)
    xp.multiply(d, inverse, out=d)
    sequences = _sequences(qkv)
    slopes = arena.take((sequences[0].stop, *scores.shape[1:]), qkv.dtype)
    inner = arena.take(inverse.shape, qkv.dtype)
    xp.matmul(d[..., None, :], o[..., :, None], out=inner[..., None])
    for batch in sequences:
        for start, stop in _tiles(qkv):
            rows = (batch, slice(None), slice(start, stop))
            ds = slopes[:, :, start:stop, :stop]
            xp.matmul(d[rows], v[batch, :, :stop].swapaxes(-1, -2), out=ds)
            xp.subtract(ds, inner[rows], out=ds)
            xp.multiply(ds, scores[rows][..., :stop], out=ds)
            xp.matmul(ds, k[batch, :, :stop], out=dq[rows])
        for start, stop in _tiles(qkv):
            columns = (batch, slice(None), slice(start, stop))
            below = (batch, slice(None), slice(start, None))
            ds = slopes[:, :, start:, start:stop]
            xp.matmul(ds.swapaxes(-1, -2), q[below], out=dk[columns])
            e = scores[below][..., start:stop]
            xp.matmul(e.swapaxes(-1, -2), d[below], out=dv[columns])
    xp.multiply(dq, 1 / sqrt(q.shape[-1]), out=dq)
    arena.give(slopes, inner)


def _heads(x: Array, heads: int) -> Array:
    """(B, T, C) seen as (B, H, T, C / H)."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def _split(qkv: Array, heads: int) -> list[Array]:
    """Queries, keys and values in (B, T, 3 C), each seen as (B, H, T, C / H)."""
    width = qkv.shape[-1] // 3
    return [_heads(qkv[..., i * width : (i + 1) * width], heads) for i in range(3)]


def _sequences(qkv: Array) -> list[slice]:
    """Sequences at a time: one on a CPU, whose cache then holds its scores; all on a GPU."""
    batch = qkv.shape[0]
    step = 1 if namespace(qkv) is np else batch
    return [slice(start, start + step) for start in range(0, batch, step)]


def _tiles(qkv: Array) -> Iterator[tuple[int, int]]:
    """First row of each tile of the scores, and the next one's; a single tile on a GPU."""
    length = qkv.shape[-2]
    step = TILE if namespace(qkv) is np else length
    return ((start, min(start + step, length)) for start in range(0, length, step))


def _mask(qkv: Array, arena: Arena) -> Array:
    """Zero on and below the diagonal, -inf above, of a tile's size."""
    xp, size = namespace(qkv), max(stop - start for start, stop in _tiles(qkv))
    return arena.constant(
        ("mask", size, qkv.dtype), lambda: xp.triu(xp.full((size, size), -xp.inf, qkv.dtype), 1)
    )
