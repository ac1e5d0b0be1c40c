"""Fully connected layers whose weight is cut: by columns, or by rows."""

from math import prod
from typing import Any

from hpcpar.device import Array, namespace
from hpcpar.nn import Arena, Cut
from hpcpar.nn.dense import Dense
from hpcpar.nn.footprint import Footprint
from hpcpar.nn.model import Tensors
from hpcpar.nn.ops import gelu
from hpcpar.parallel.dense_footprint import DenseSteps
from hpcpar.parallel.rehearsal import footprint
from hpcpar.parallel.tensor_group import TensorGroup
from hpcpar.parallel.tensor_linear import ColumnParallel, RowParallel
from hpcpar.parallel.traffic import Traffic

__all__ = ["ColumnDense", "RowDense"]


class ColumnDense:
    """(B, I) -> this rank's part of (B, O). A rank has the weights and the biases of some units."""

    def __init__(self, dense: Dense, group: TensorGroup) -> None:
        tiles = group.deal("units", dense.weight.shape[1])
        self.product = ColumnParallel(group, tiles)
        self.weight = dense.weight.held(Cut(dense.weight.shape, 1, tiles.cuts()))
        self.bias = dense.bias.held(Cut(dense.bias.shape, 0, tiles.cuts()))
        self.parameters = [self.weight, self.bias]
        self.activation, self.first = dense.activation, dense.first

    def forward(self, p: Tensors, x: Array, arena: Arena) -> tuple[Array, Any]:
        w, bias = p[self.weight.name], p[self.bias.name]
        if x.ndim != 2 or x.shape[1] != len(w):
            raise ValueError(f"{self.weight.name} takes inputs (B, {len(w)}), not {x.shape}")
        y = arena.take((len(x), w.shape[1]), w.dtype)
        self.product.forward(x, w, y, arena)
        if not self.activation:
            namespace(y).add(y, bias, out=y)
            return y, (x,)
        slope = arena.take(y.shape, y.dtype)
        gelu.forward(y, bias, slope, arena)
        return y, (x, slope)

    def backward(self, p: Tensors, g: Tensors, dy: Array, saved: Any, arena: Arena) -> Array | None:
        dx, kept = self.backward_input(p, dy, saved, arena)
        self.backward_weight(g, kept, arena)
        return dx

    def backward_input(
        self, p: Tensors, dy: Array, saved: Any, arena: Arena
    ) -> tuple[Array | None, tuple[Array, ...]]:
        w, dx = p[self.weight.name], None
        db = arena.take((w.shape[1],), dy.dtype)
        if self.activation:
            self.product.gelu_backward(dy, saved[1], db, arena)
        else:
            self.product.bias_gradient(dy, db, arena)
        if not self.first:
            dx = self.product.input_gradient(dy, w, arena).wait()
        x, *slope = saved
        arena.give(slope)
        return dx, (x, dy, db)

    def backward_weight(self, g: Tensors, kept: tuple[Array, ...], arena: Arena) -> None:
        x, dy, db = kept
        self.product.weight_gradient(x, dy, g[self.weight.name], arena)
        g[self.bias.name][...] = db
        arena.give(kept)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-1], self.weight.shape[1])

    def footprint(self, shape: tuple[int, ...], host: bool = True) -> Footprint:
        return footprint(DenseSteps(self, shape), 4 * prod(shape), host)

    def flops(self, shape: tuple[int, ...]) -> float:
        return 2.0 * shape[0] * self.weight.size

    def traffic(self, shape: tuple[int, ...]) -> Traffic:
        product, sums = self.product, (0, 0 if self.first else 1)
        return Traffic(product.group, product.tiles, shape[0], self.weight.shape[0], sums)


class RowDense:
    """(B, I) -> (B, O). A rank has the weights of some inputs, and adds its part of the products.

    It takes all inputs, of which it reads its own, or its own alone. The bias, which every rank
    has, and the activation come after the sum.
    """

    def __init__(self, dense: Dense, group: TensorGroup) -> None:
        self.inputs = dense.weight.shape[0]
        self.tiles = group.deal("inputs", self.inputs)
        self.product = RowParallel(group, self.tiles)
        self.weight = dense.weight.held(Cut(dense.weight.shape, 0, self.tiles.cuts()))
        self.bias = dense.bias
        self.parameters = [self.weight, self.bias]
        self.activation, self.first = dense.activation, dense.first

    def forward(self, p: Tensors, x: Array, arena: Arena) -> tuple[Array, Any]:
        w, bias = p[self.weight.name], p[self.bias.name]
        if x.ndim != 2 or x.shape[1] not in (self.inputs, len(w)):
            raise ValueError(f"{self.weight.name} takes inputs (B, {self.inputs}), not {x.shape}")
        y = self.product.forward(self._own(x), w, arena).wait()
        if not self.activation:
            namespace(y).add(y, bias, out=y)
            return y, (x,)
        slope = arena.take(y.shape, y.dtype)
        gelu.forward(y, bias, slope, arena)
        return y, (x, slope)

    def backward(self, p: Tensors, g: Tensors, dy: Array, saved: Any, arena: Arena) -> Array | None:
        dx, kept = self.backward_input(p, dy, saved, arena)
        self.backward_weight(g, kept, arena)
        return dx

    def backward_input(
        self, p: Tensors, dy: Array, saved: Any, arena: Arena
    ) -> tuple[Array | None, tuple[Array, ...]]:
        w, dx = p[self.weight.name], None
        db = arena.take(self.bias.shape, dy.dtype)
        if self.activation:
            gelu.backward(dy, saved[1], db, arena)
        else:
            dy.sum(axis=0, out=db)
        if not self.first:
            dx = arena.take((len(dy), len(w)), dy.dtype)
            self.product.input_gradient(dy, w, dx, arena)
        x, *slope = saved
        arena.give(slope)
        return dx, (x, dy, db)

    def backward_weight(self, g: Tensors, kept: tuple[Array, ...], arena: Arena) -> None:
        x, dy, db = kept
        self.product.weight_gradient(self._own(x), dy, g[self.weight.name], arena)
        g[self.bias.name][...] = db
        arena.give(kept)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-1], self.weight.shape[1])

    def footprint(self, shape: tuple[int, ...], host: bool = True) -> Footprint:
        return footprint(DenseSteps(self, shape), 4 * prod(shape), host)

    def flops(self, shape: tuple[int, ...]) -> float:
        return 2.0 * shape[0] * self.weight.size

    def traffic(self, shape: tuple[int, ...]) -> Traffic:
        product = self.product
        return Traffic(product.group, product.tiles, shape[0], self.weight.shape[1], (1, 0))

    def _own(self, x: Array) -> Array:
        """This rank's inputs."""
        held = self.tiles.held
        return x if x.shape[1] == len(held) else x[:, held.start : held.stop]
