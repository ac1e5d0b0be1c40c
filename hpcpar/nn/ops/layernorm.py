"""Layer normalization over the last axis (Ba, Kiros and Hinton, arXiv:1607.06450).

Sums along rows are matrix-vector products: the BLAS is faster at them than a reduction.
"""

from hpcpar.device import Array, namespace
from hpcpar.nn.arena import Arena
from hpcpar.nn.ops.blocks import row_blocks

__all__ = ["EPSILON", "backward", "forward"]

EPSILON = 1e-5  # GPT-2's


def forward(
    x: Array, w: Array, b: Array, out: Array, normal: Array, rstd: Array, arena: Arena
) -> None:
    """out (N, C) = normal * w + b, where normal (N, C) = (x - mean) * rstd (N, 1)."""
    xp = namespace(x)
    columns = x.shape[1]
    average = arena.constant(
        ("average", columns, x.dtype), lambda: xp.full((columns, 1), 1 / columns, x.dtype)
    )
    for rows in row_blocks(x):
        n, r, y = normal[rows], rstd[rows], out[rows]
        xp.matmul(x[rows], average, out=r)  # mean
        xp.subtract(x[rows], r, out=n)
        xp.matmul(n[:, None, :], n[:, :, None], out=r[:, None])  # columns * variance
        xp.multiply(r, 1 / columns, out=r)
        xp.add(r, EPSILON, out=r)
        xp.sqrt(r, out=r)
        xp.reciprocal(r, out=r)
        xp.multiply(n, r, out=n)
        xp.multiply(n, w, out=y)
        xp.add(y, b, out=y)


def backward(
    dy: Array, w: Array, normal: Array, rstd: Array, dw: Array, db: Array, arena: Arena
) -> None:
    """dy (N, C) becomes dx; dw and db (C,) are written.

    dx = rstd (g - mean(g) - normal mean(g normal)), g = dy w, with means along the row.
    """
    xp = namespace(dy)
    columns = dy.shape[1]
    blocks = row_blocks(dy)
    partial = arena.take((2, len(blocks), columns), dy.dtype)  # dw and db of each block
    scratch = arena.take((blocks[0].stop, columns), dy.dtype)
    means = arena.take((2, blocks[0].stop, 1), dy.dtype)
    average = arena.take((columns, 1), dy.dtype)
    xp.multiply(w[:, None], 1 / columns, out=average)
    for i, rows in enumerate(blocks):
        g, n = dy[rows], normal[rows]
        along = scratch[: len(g)]
        mean, slope = means[:, : len(g)]
        xp.multiply(g, n, out=along)
        along.sum(axis=0, out=partial[0, i])
        g.sum(axis=0, out=partial[1, i])
        xp.matmul(g, average, out=mean)
        xp.matmul(along, average, out=slope)
        xp.multiply(g, w, out=g)
        xp.multiply(n, slope, out=along)
        xp.subtract(g, along, out=g)
        xp.subtract(g, mean, out=g)
        xp.multiply(g, rstd[rows], out=g)
    partial[0].sum(axis=0, out=dw)
    partial[1].sum(axis=0, out=db)
    arena.give(partial, scratch, means, average)
