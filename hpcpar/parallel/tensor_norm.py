"""A layer norm on the rows of the residual stream that a rank looks after, by tiles of rows."""

from hpcpar.device import Array
from hpcpar.nn import Arena
from hpcpar.nn.block import Norm
from hpcpar.nn.model import Tensors
from hpcpar.nn.ops import layernorm
from hpcpar.parallel.tensor_group import TensorGroup
from hpcpar.tree import Subtotals

__all__ = ["TensorNorm"]


class TensorNorm:
    """The layer norm with the parameters `name`.weight and `name`.bias, which every rank has.

    A row's bits depend on how many are computed with it, so rows have tiles as weights have. The
    gradients of the parameters are added up by the tree over these tiles.
    """

    def __init__(self, group: TensorGroup, name: str) -> None:
        self._group = group
        self._weight, self._bias = f"{name}.weight", f"{name}.bias"

    def forward(self, p: Tensors, stream: Array, arena: Arena) -> Norm:
        """Of this rank's rows (n, C) of the stream (N, C)."""
        tiles = self._group.rows(len(stream))
        x = self._group.own_rows(stream)
        out, normal = arena.take(x.shape, x.dtype), arena.take(x.shape, x.dtype)
        rstd = arena.take((len(x), 1), x.dtype)
        w, b = p[self._weight], p[self._bias]
        for (at,) in tiles.places():
            layernorm.forward(x[at], w, b, out[at], normal[at], rstd[at], arena)
        return Norm(out, normal, rstd)

    def backward(self, p: Tensors, dy: Array, norm: Norm, count: int, arena: Arena) -> Array:
        """dy (n, C), of this rank's rows of `count`, becomes dx. Collective.

        Returns the gradients of weight and bias, (2, C), for `write`; of `norm`, `out` is still
        lent.
        """
        tiles = self._group.rows(count)
        like = arena.take((2, dy.shape[1]), dy.dtype)  # gradients of weight and bias
        sums = Subtotals(len(tiles.runs), like, arena)
        arena.give(like)
        for number, (at,) in zip(tiles.mine, tiles.places(), strict=True):
            leaf = sums.buffer()
            layernorm.backward(
                dy[at], p[self._weight], norm.normal[at], norm.rstd[at], leaf[0], leaf[1], arena
            )
            sums.add(number, leaf)
        total = self._group.start_sum(tiles, sums.take(tiles.mine), arena).wait()
        arena.give(norm.normal, norm.rstd)
        return total

    def write(self, g: Tensors, gradients: Array) -> None:
        """Where the gradients belong."""
        g[self._weight][...], g[self._bias][...] = gradients
