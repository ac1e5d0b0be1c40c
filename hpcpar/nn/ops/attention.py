"""Causal self-attention, all heads, straight on the fused projection.

Queries, keys and values are read where they lie in `qkv`, and heads are written where they belong:
nothing is transposed or copied. Scores are not divided by their sums; the much smaller outputs are
(FlashAttention-2, Dao, arXiv:2307.08691, section 3.1).
"""

from math import sqrt

import numpy as np

from hpcpar.device import Array, namespace
from hpcpar.nn.arena import Arena
from hpcpar.nn.ops.score_blocks import exponentials, gradients

__all__ = ["backward", "begin_backward", "forward", "safe_heads", "sequences", "split"]

SMALL, LARGE = 1e-20, 1e30  # sums of exponentials that are as good as those of shifted scores


def forward(
    qkv: Array,
    b: Array,
    heads: int,
    out: Array,
    scores: Array,
    inverse: Array,
    arena: Arena,
    starts: "Array | None" = None,
) -> None:
    """out (B, T, C) = softmax(q k^T / sqrt(C / heads), causal) v for each of the heads.

    qkv (B, T, 3 C): b (3 C,) is added to it, and q in it becomes q / sqrt(C / heads). For
    `backward`: `scores` (B, H, T, T) become exponentials, undefined above the tiles on the
    diagonal, and `inverse` (B, H, T, 1) one over the sums of their rows. `starts`, int32 (B, T), is
    the first position that each attends to (`score_blocks`); None is the first of all.

    The shift of a softmax is the row's maximum: no exponential overflows, and one of them is 1. But
    few models ever need it, and finding and subtracting it takes a quarter of the time. So a CPU
    first goes without; the sums then tell for which heads that was safe.
    """
    xp = namespace(qkv)
    q, k, v = split(qkv, heads)
    o = _heads(out, heads)

    def attend(part: tuple[slice, slice], shift: bool) -> None:
        exponentials(
            q[part], k[part], v[part], scores[part], inverse[part], o[part], arena,
            causal=True, shift=shift, starts=None if starts is None else starts[part[0]],
        )  # fmt: skip

    for one in sequences(qkv):
        xp.add(qkv[one], b, out=qkv[one])
        xp.multiply(q[one], 1 / sqrt(q.shape[-1]), out=q[one])
        unsafe = [slice(None)]
        if xp is np:
            with np.errstate(over="ignore", invalid="ignore"):
                attend((one, slice(None)), shift=False)
            safe = safe_heads(inverse[one].min(axis=2), inverse[one].max(axis=2))
            unsafe = [slice(head, head + 1) for head in np.flatnonzero(~safe)]
        for head in unsafe:
            attend((one, head), shift=True)
        xp.reciprocal(inverse[one], out=inverse[one])
        xp.multiply(o[one], inverse[one], out=o[one])


def safe_heads(least: Array, most: Array) -> Array:
    """Whether exponentials of scores as they are, with such sums, are as good as shifted ones.

    Each head is judged by itself: its bits do not depend on which others are computed with it.
    """
    return (least > SMALL) & (most < LARGE)


def backward(
    dout: Array,
    out: Array,
    qkv: Array,
    heads: int,
    scores: Array,
    inverse: Array,
    dqkv: Array,
    arena: Arena,
    starts: "Array | None" = None,
) -> None:
    """dqkv (B, T, 3 C) from dout (B, T, C), which is overwritten; the rest as `forward` left it."""
    xp = namespace(qkv)
    q, k, v = split(qkv, heads)
    dq, dk, dv = split(dqkv, heads)
    inner = arena.take(inverse.shape, qkv.dtype)
    d = begin_backward(dout, out, heads, inverse, inner)
    batches = sequences(qkv)
    slopes = arena.take((batches[0].stop, *scores.shape[1:]), qkv.dtype)
    for one in batches:
        gradients(
            d[one], inner[one], q[one], k[one], v[one], scores[one], slopes,
            dq[one], dk[one], dv[one], causal=True,
            starts=None if starts is None else starts[one],
        )  # fmt: skip
    xp.multiply(dq, 1 / sqrt(q.shape[-1]), out=dq)
    arena.give(slopes, inner)


def begin_backward(dout: Array, out: Array, heads: int, inverse: Array, inner: Array) -> Array:
    """dout (B, T, C) becomes d = dout * inverse, returned as (B, H, T, C / H).

    `inner` (B, H, T, 1) becomes the sums of d * out over the channels of each head.
    """
    xp = namespace(dout)
    d, o = _heads(dout, heads), _heads(out, heads)
    xp.multiply(d, inverse, out=d)
    xp.matmul(d[..., None, :], o[..., :, None], out=inner[..., None])
    return d


def split(qkv: Array, heads: int) -> list[Array]:
    """Queries, keys and values in (B, T, 3 C), each seen as (B, H, T, C / H)."""
    width = qkv.shape[-1] // 3
    return [_heads(qkv[..., i * width : (i + 1) * width], heads) for i in range(3)]


def sequences(qkv: Array) -> list[slice]:
    """Sequences at a time: one on a CPU, whose cache then holds its scores; all on a GPU."""
    batch = qkv.shape[0]
    step = 1 if namespace(qkv) is np else batch
    return [slice(start, start + step) for start in range(0, batch, step)]


def _heads(x: Array, heads: int) -> Array:
    """(B, T, C) seen as (B, H, T, C / H)."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)
