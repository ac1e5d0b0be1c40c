"""A fully connected layer, with or without a GELU behind it."""

from typing import Any

from hpcpar.device import Array
from hpcpar.nn.arena import Arena
from hpcpar.nn.model import Tensors
from hpcpar.nn.ops import gelu, linear
from hpcpar.nn.parameters import Parameter

__all__ = ["Dense"]


class Dense:
    """(B, I) -> x @ weight + bias (B, O), then GELU if `activation`.

    Weights start as `std` times normal numbers (zeros for std=0), biases as zeros. The `first`
    layer of a model computes no gradient of its input.
    """

    def __init__(
        self,
        name: str,
        inputs: int,
        outputs: int,
        *,
        std: float = 0.0,
        activation: bool = False,
        first: bool = False,
    ):
        shape = (inputs, outputs)
        self.weight = Parameter(f"{name}.weight", shape, "normal" if std else "zeros", std)
        self.bias = Parameter(f"{name}.bias", (outputs,))
        self.parameters = [self.weight, self.bias]
        self.activation = activation
        self.first = first

    def forward(self, p: Tensors, x: Array, arena: Arena) -> tuple[Array, Any]:
        w = p[self.weight.name]
        if x.ndim != 2 or x.shape[1] != len(w):
            raise ValueError(f"{self.weight.name} takes inputs (B, {len(w)}), not {x.shape}")
        y = arena.take((len(x), w.shape[1]), w.dtype)
        bias = p[self.bias.name]
        if not self.activation:
            linear.forward(x, w, bias, y)
            return y, (x,)
        linear.forward(x, w, None, y)
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
        kept: tuple[Array, ...] = (saved[0], dy)
        if self.activation:
            db = arena.take((w.shape[1],), dy.dtype)
            gelu.backward(dy, saved[1], db, arena)
            arena.give(saved[1])
            kept = (*kept, db)
        if not self.first:
            dx = arena.take(saved[0].shape, dy.dtype)
            linear.input_gradient(dy, w, dx)
        return dx, kept

    def backward_weight(self, g: Tensors, kept: tuple[Array, ...], arena: Arena) -> None:
        x, dy, *of_gelu = kept
        dw, db = g[self.weight.name], g[self.bias.name]
        linear.weight_gradient(x, dy, dw, None if of_gelu else db)
        if of_gelu:
            db[...] = of_gelu[0]
        arena.give(kept)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-1], self.weight.shape[1])
