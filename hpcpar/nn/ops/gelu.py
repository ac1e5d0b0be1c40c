"""GELU in its tanh form, GPT-2's "gelu_new" (Hendrycks and Gimpel, arXiv:1606.08415, section 2)."""

from math import pi, sqrt

from hpcpar.device import Array, namespace
from hpcpar.nn.arena import Arena
from hpcpar.nn.ops.blocks import row_blocks

__all__ = ["backward", "forward"]

LINEAR = sqrt(2 / pi)
CUBIC = 0.044715 * LINEAR


def forward(x: Array, b: Array, slope: Array, arena: Arena) -> None:
    """x (N, C) becomes gelu(x + b), and `slope` (N, C) its derivative there; b is (C,).

    With s = (1 + tanh(z)) / 2, z = x (LINEAR + CUBIC x^2):  gelu = x s, and
    gelu' = s + x s (1 - s) 2 dz/dx. The derivative is cheap while the block is in cache; the way
    back is then a single product.
    """
    xp = namespace(x)
    blocks = row_blocks(x)
    scratch = arena.take((2, blocks[0].stop, x.shape[1]), x.dtype)
    for rows in blocks:
        y, d = x[rows], slope[rows]
        s, rest = scratch[:, : len(y)]
        xp.add(y, b, out=y)  # here, while the block is in cache, not behind the product
        xp.multiply(y, y, out=d)
        xp.multiply(d, CUBIC, out=s)
        xp.add(s, LINEAR, out=s)
        xp.multiply(s, y, out=s)
        xp.tanh(s, out=s)
        xp.multiply(s, 0.5, out=s)
        xp.add(s, 0.5, out=s)  # s
        xp.multiply(y, s, out=y)  # x s
        xp.multiply(d, 6 * CUBIC, out=d)
        xp.add(d, 2 * LINEAR, out=d)  # 2 dz/dx
        xp.multiply(d, y, out=d)
        xp.subtract(1, s, out=rest)
        xp.multiply(d, rest, out=d)
        xp.add(d, s, out=d)
    arena.give(scratch)


def backward(dy: Array, slope: Array, db: Array, arena: Arena, columns: int = 0) -> None:
    """dy (N, C) becomes dx, and db (C,) the sum of its rows; `columns`: see `row_blocks`."""
    xp = namespace(dy)
    blocks = row_blocks(dy, columns)
    partial = arena.take((len(blocks), dy.shape[1]), dy.dtype)  # db of each block
    for i, rows in enumerate(blocks):
        xp.multiply(dy[rows], slope[rows], out=dy[rows])
        dy[rows].sum(axis=0, out=partial[i])
    partial.sum(axis=0, out=db)
    arena.give(partial)
