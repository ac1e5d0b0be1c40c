"""Cross-entropy of a softmax, summed over targets: loss and gradient in one go over the logits."""

import numpy as np

from hpcpar.device import Array, namespace
from hpcpar.nn.arena import Arena
from hpcpar.nn.ops.blocks import row_blocks

__all__ = ["forward", "forward_backward"]


def forward(logits: Array, targets: Array, arena: Arena) -> float:
    """The sum of log sum exp(z) - z[target] over the rows of logits (N, V); targets (N,)."""
    blocks = row_blocks(logits)
    scratch = arena.take((blocks[0].stop, logits.shape[1]), logits.dtype)
    losses = arena.take((len(logits),), np.float64)
    sums = arena.take((len(logits), 1), logits.dtype)
    for rows in blocks:
        z = scratch[: rows.stop - rows.start]
        z[...] = logits[rows]
        _exponentials(z, targets[rows], losses[rows], sums[rows])
    loss = float(losses.sum())
    arena.give(scratch, losses, sums)
    return loss


def forward_backward(logits: Array, targets: Array, scale: float, arena: Arena) -> float:
    """As `forward`; logits become the gradient of scale * sum: scale (softmax - one-hot)."""
    xp = namespace(logits)
    losses = arena.take((len(logits),), np.float64)
    sums = arena.take((len(logits), 1), logits.dtype)
    for rows in row_blocks(logits):
        z, s, target = logits[rows], sums[rows], targets[rows]
        _exponentials(z, target, losses[rows], s)
        xp.divide(scale, s, out=s)
        xp.multiply(z, s, out=z)
        z[xp.arange(len(z)), target] -= scale
    loss = float(losses.sum())
    arena.give(losses, sums)
    return loss


def _exponentials(z: Array, targets: Array, losses: Array, sums: Array) -> None:
    """z (n, V) becomes exp(z - max z), `sums` (n, 1) its sums; losses (n,) are filled."""
    xp = namespace(z)
    z.max(axis=1, keepdims=True, out=sums)
    xp.subtract(z, sums, out=z)
    losses[...] = z[xp.arange(len(z)), targets]
    xp.exp(z, out=z)
    z.sum(axis=1, keepdims=True, out=sums)
    xp.subtract(xp.log(sums[:, 0]), losses, out=losses)
