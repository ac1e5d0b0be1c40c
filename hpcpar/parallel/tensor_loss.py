"""Cross-entropy of logits of which every rank has some columns; they are never brought together.

Ranks tell each other three numbers a row: its maximum, its sum of exponentials, and the logit of
its target (Shoeybi et al., arXiv:1909.08053, section 3).
"""

from math import prod

import numpy as np

from hpcpar.device import Array, namespace
from hpcpar.nn import Arena
from hpcpar.nn.footprint import Sizes
from hpcpar.nn.ops.blocks import row_blocks
from hpcpar.parallel.tensor_footprint import loss_scratch
from hpcpar.parallel.tensor_group import TensorGroup
from hpcpar.tree import Subtotals, tree_total

__all__ = ["TensorCrossEntropy"]


class TensorCrossEntropy:
    """`losses.CrossEntropy` of logits (..., this rank's part of V), targets (...) from 0 to V - 1.

    Every rank gets the whole loss of the positions that it has (`Context`; targets are those of
    all), and its own part of the gradient. Collective.
    """

    def __init__(self, vocabulary: int, group: TensorGroup) -> None:
        self._group, self._vocabulary = group, vocabulary
        self._tiles = group.deal("tokens", vocabulary)
        self._columns = [at for (at,) in self._tiles.places()]

    def value(self, outputs: Array, targets: Array, arena: Arena) -> float:
        logits, targets = outputs.reshape(-1, outputs.shape[-1]), self._of(targets)
        scratch = arena.take((row_blocks(logits)[0].stop, logits.shape[1]), logits.dtype)
        loss, sums = self._sums(logits, targets, arena, scratch)
        arena.give(scratch, sums)
        return loss

    def value_and_gradient(
        self, outputs: Array, targets: Array, scale: float, arena: Arena
    ) -> tuple[float, Array]:
        xp = namespace(outputs)
        logits, targets = outputs.reshape(-1, outputs.shape[-1]), self._of(targets)
        loss, sums = self._sums(logits, targets, arena)
        factors = sums[0][:, None]
        xp.divide(scale, factors, out=factors)
        for rows in row_blocks(logits):
            z = logits[rows]
            xp.multiply(z, factors[rows], out=z)
            place, mine = self._places(targets[rows])
            z[xp.arange(len(z)), place] -= mine * z.dtype.type(scale)  # nothing where another's
        arena.give(sums)
        return loss, outputs

    def scratch(self, shape: tuple[int, ...]) -> Sizes:
        """What `value_and_gradient` takes from the arena for outputs of this shape."""
        return loss_scratch(self._group, self._tiles, prod(shape[:-1]))

    def _sums(
        self, logits: Array, targets: Array, arena: Arena, scratch: Array | None = None
    ) -> tuple[float, Array]:
        """The loss; and in (2, N) the sums of exp(z - max z) of all logits z of a row.

        Logits (N, V / P) become these exponentials, unless there is `scratch` for some rows.
        """
        xp, count = namespace(logits), len(logits)
        self._check(targets)
        top = arena.take((count, 1), logits.dtype)
        logits.max(axis=1, keepdims=True, out=top)
        self._group.combine(top, "max")
        like = arena.take((2, count), logits.dtype)  # sums of exponentials; logits of targets
        sums = Subtotals(len(self._tiles.runs), like, arena)
        arena.give(like)
        leaves = [sums.buffer() for _ in self._columns]
        for leaf in leaves[1:]:
            leaf[1] = -0.0  # to which anything can be added as it is
        for rows in row_blocks(logits):
            z = logits[rows] if scratch is None else scratch[: rows.stop - rows.start]
            xp.subtract(logits[rows], top[rows], out=z)
            place, mine = self._places(targets[rows])
            leaves[0][1, rows] = xp.where(mine, z[xp.arange(len(z)), place], -0.0)
            xp.exp(z, out=z)
            for leaf, at in zip(leaves, self._columns, strict=True):
                z[:, at].sum(axis=1, out=leaf[0, rows])
        for number, leaf in zip(self._tiles.mine, leaves, strict=True):
            sums.add(number, leaf)
        total = self._group.start_sum(self._tiles, sums.take(self._tiles.mine), arena).wait()
        losses = arena.take((count,), np.float64)
        losses[...] = total[1]
        xp.subtract(xp.log(total[0]), losses, out=losses)
        tiles = self._group.row_tiles(count)
        loss = tree_total(np.array([float(losses[rows].sum()) for rows in tiles]))
        arena.give(top, losses)
        return loss, total

    def _of(self, targets: Array) -> Array:
        """Those of this rank's positions, (N,)."""
        return self._group.context.cut(targets).reshape(-1)

    def _places(self, targets: Array) -> tuple[Array, Array]:
        """The column of each target here, or some column, and whether it is here."""
        held = self._tiles.held
        place = namespace(targets).clip(targets, held.start, held.stop - 1)
        return place - held.start, place == targets

    def _check(self, targets: Array) -> None:
        """On a GPU it would have to wait."""
        if namespace(targets) is np and targets.size:
            least, most = targets.min(), targets.max()
            if least < 0 or most >= self._vocabulary:
                raise ValueError(
                    f"targets run from {least} to {most}, the vocabulary from 0 to "
                    f"{self._vocabulary - 1}"
                )
