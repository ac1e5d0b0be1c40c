"""The last layer of a GPT: a norm, and the embedding again, as a projection to the vocabulary."""

from typing import Any

from hpcpar.device import Array
from hpcpar.nn.arena import Arena
from hpcpar.nn.model import Tensors
from hpcpar.nn.ops import layernorm, linear
from hpcpar.nn.parameters import Parameter

__all__ = ["Head"]


class Head:
    """(B, T, C) -> logits (B, T, V)."""

    def __init__(self, prefix: str, width: int, vocabulary: int):
        self.weight = Parameter(f"{prefix}ln_f.weight", (width,), "ones")
        self.bias = Parameter(f"{prefix}ln_f.bias", (width,))
        self.output = Parameter(
            "lm_head.weight", (vocabulary, width), tied_to=f"{prefix}wte.weight"
        )
        self.parameters = [self.weight, self.bias, self.output]

    def forward(self, p: Tensors, x: Array, arena: Arena) -> tuple[Array, Any]:
        rows = x.reshape(-1, x.shape[-1])
        out, normal = arena.take(rows.shape, x.dtype), arena.take(rows.shape, x.dtype)
        rstd = arena.take((len(rows), 1), x.dtype)
        w, b = p[self.weight.name], p[self.bias.name]
        layernorm.forward(rows, w, b, out, normal, rstd, arena)
        arena.give(x)
        output = p[self.output.name]
        logits = arena.take((*x.shape[:-1], len(output)), x.dtype)
        linear.forward(out, output.T, None, logits.reshape(len(rows), -1))
        return logits, (out, normal, rstd)

    def backward(self, p: Tensors, g: Tensors, dy: Array, saved: Any, arena: Arena) -> Array:
        dx, kept = self.backward_input(p, dy, saved, arena)
        self.backward_weight(g, kept, arena)
        return dx

    def backward_input(
        self, p: Tensors, dy: Array, saved: Any, arena: Arena
    ) -> tuple[Array, tuple[Array, ...]]:
        out, normal, rstd = saved
        rows = dy.reshape(len(out), -1)
        dx = arena.take((*dy.shape[:-1], out.shape[1]), dy.dtype)
        within = dx.reshape(out.shape)
        linear.input_gradient(rows, p[self.output.name].T, within)
        w = p[self.weight.name]
        dw, db = arena.take(w.shape, w.dtype), arena.take(w.shape, w.dtype)
        layernorm.backward(within, w, normal, rstd, dw, db, arena)
        arena.give(normal, rstd)
        return dx, (dy, out, dw, db)

    def backward_weight(self, g: Tensors, kept: tuple[Array, ...], arena: Arena) -> None:
        dy, out, dw, db = kept
        linear.weight_gradient(out, dy.reshape(len(out), -1), g[self.output.name].T, None)
        g[self.weight.name][...] = dw
        g[self.bias.name][...] = db
        arena.give(kept)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-1], self.output.shape[0])
