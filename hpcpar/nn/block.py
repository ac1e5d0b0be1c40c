"""A transformer block as GPT-2 has it: x + attention(norm(x)), then x + mlp(norm(x))."""

from math import sqrt
from typing import NamedTuple

from hpcpar.device import Array, namespace
from hpcpar.nn.arena import Arena
from hpcpar.nn.model import Tensors
from hpcpar.nn.ops import attention, gelu, layernorm, linear
from hpcpar.nn.parameters import Parameter

__all__ = ["Block"]


class Norm(NamedTuple):
    """What a layer norm leaves behind."""

    out: Array  # (N, C)
    normal: Array  # (N, C)
    rstd: Array  # (N, 1)


class Heads(NamedTuple):
    """What attention leaves behind."""

    qkv: Array  # (B, T, 3 C)
    scores: Array  # (B, H, T, T)
    inverse: Array  # (B, H, T, 1)
    out: Array  # (B, T, C)


class Hidden(NamedTuple):
    """What the middle of the MLP leaves behind."""

    out: Array  # (N, 4 C)
    slope: Array  # (N, 4 C)


class Block:
    """(B, T, C) -> (B, T, C); the residual stream is one array, written in place.

    `depth` is the number of blocks in the model: projections into the residual stream start
    smaller by sqrt(2 depth), as in GPT-2.
    """

    def __init__(self, prefix: str, width: int, heads: int, depth: int):
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of the {heads} heads")
        self.heads = heads
        self.prefix = prefix
        into = 0.02 / sqrt(2 * depth)  # residual projections
        self.parameters = [
            Parameter(f"{prefix}ln_1.weight", (width,), "ones"),
            Parameter(f"{prefix}ln_1.bias", (width,)),
            Parameter(f"{prefix}attn.c_attn.weight", (width, 3 * width), "normal", 0.02),
            Parameter(f"{prefix}attn.c_attn.bias", (3 * width,)),
            Parameter(f"{prefix}attn.c_proj.weight", (width, width), "normal", into),
            Parameter(f"{prefix}attn.c_proj.bias", (width,)),
            Parameter(f"{prefix}ln_2.weight", (width,), "ones"),
            Parameter(f"{prefix}ln_2.bias", (width,)),
            Parameter(f"{prefix}mlp.c_fc.weight", (width, 4 * width), "normal", 0.02),
            Parameter(f"{prefix}mlp.c_fc.bias", (4 * width,)),
            Parameter(f"{prefix}mlp.c_proj.weight", (4 * width, width), "normal", into),
            Parameter(f"{prefix}mlp.c_proj.bias", (width,)),
        ]

    def forward(
        self, p: Tensors, x: Array, arena: Arena
    ) -> tuple[Array, tuple[Norm, Heads, Norm, Hidden]]:
        stream = x.reshape(-1, x.shape[-1])  # (N, C), N = B T
        norm_1 = self._norm("ln_1", p, stream, arena)
        heads = self._attention(p, norm_1.out, x.shape, arena)
        attended = heads.out.reshape(len(stream), -1)
        self._project("attn.c_proj", p, attended, stream, arena)
        norm_2 = self._norm("ln_2", p, stream, arena)
        hidden = self._hidden(p, norm_2.out, arena)
        self._project("mlp.c_proj", p, hidden.out, stream, arena)
        return x, (norm_1, heads, norm_2, hidden)

    def backward(
        self,
        p: Tensors,
        g: Tensors,
        dy: Array,
        saved: tuple[Norm, Heads, Norm, Hidden],
        arena: Arena,
    ) -> Array:
        norm_1, heads, norm_2, hidden = saved
        xp = namespace(dy)
        stream = dy.reshape(-1, dy.shape[-1])
        branch = arena.take(stream.shape, dy.dtype)  # gradient inside a branch, width C

        d_hidden = arena.take(hidden.out.shape, dy.dtype)
        self._linear_backward("mlp.c_proj", p, g, hidden.out, stream, d_hidden)
        (w, _), (dw, db) = self._pair(p, "mlp.c_fc"), self._pair(g, "mlp.c_fc")
        gelu.backward(d_hidden, hidden.slope, db, arena)
        linear.weight_gradient(norm_2.out, d_hidden, dw, None)
        linear.input_gradient(d_hidden, w, branch)
        arena.give(hidden, d_hidden)
        self._norm_backward("ln_2", p, g, branch, norm_2, arena)
        xp.add(stream, branch, out=stream)

        self._linear_backward("attn.c_proj", p, g, heads.out.reshape(stream.shape), stream, branch)
        d_qkv = arena.take(heads.qkv.shape, dy.dtype)
        attention.backward(
            branch.reshape(dy.shape),
            heads.out,
            heads.qkv,
            self.heads,
            heads.scores,
            heads.inverse,
            d_qkv,
            arena,
        )
        rows = d_qkv.reshape(len(stream), -1)
        self._linear_backward("attn.c_attn", p, g, norm_1.out, rows, branch)
        arena.give(heads, d_qkv)
        self._norm_backward("ln_1", p, g, branch, norm_1, arena)
        xp.add(stream, branch, out=stream)
        arena.give(branch)
        return dy

    def _norm(self, name: str, p: Tensors, x: Array, arena: Arena) -> Norm:
        out, normal = arena.take(x.shape, x.dtype), arena.take(x.shape, x.dtype)
        rstd = arena.take((len(x), 1), x.dtype)
        layernorm.forward(x, *self._pair(p, name), out, normal, rstd, arena)
        return Norm(out, normal, rstd)

    def _attention(self, p: Tensors, x: Array, shape: tuple[int, ...], arena: Arena) -> Heads:
        batch, length, width = shape
        qkv = arena.take((batch, length, 3 * width), x.dtype)
        scores = arena.take((batch, self.heads, length, length), x.dtype)
        inverse = arena.take((batch, self.heads, length, 1), x.dtype)
        out = arena.take(shape, x.dtype)
        w, b = self._pair(p, "attn.c_attn")
        linear.forward(x, w, None, qkv.reshape(len(x), -1))
        attention.forward(qkv, b, self.heads, out, scores, inverse, arena)
        return Heads(qkv, scores, inverse, out)

    def _hidden(self, p: Tensors, x: Array, arena: Arena) -> Hidden:
        w, b = self._pair(p, "mlp.c_fc")
        out = arena.take((len(x), w.shape[1]), x.dtype)
        slope = arena.take(out.shape, x.dtype)
        linear.forward(x, w, None, out)
        gelu.forward(out, b, slope, arena)
        return Hidden(out, slope)

    def _project(self, name: str, p: Tensors, x: Array, stream: Array, arena: Arena) -> None:
        """stream += x @ w + b."""
        y = arena.take(stream.shape, stream.dtype)
        linear.forward(x, *self._pair(p, name), y)
        namespace(stream).add(stream, y, out=stream)
        arena.give(y)

    def _linear_backward(
        self, name: str, p: Tensors, g: Tensors, x: Array, dy: Array, dx: Array
    ) -> None:
        linear.weight_gradient(x, dy, *self._pair(g, name))
        linear.input_gradient(dy, self._pair(p, name)[0], dx)

    def _norm_backward(
        self, name: str, p: Tensors, g: Tensors, dy: Array, norm: Norm, arena: Arena
    ) -> None:
        dw, db = self._pair(g, name)
        layernorm.backward(dy, self._pair(p, name)[0], norm.normal, norm.rstd, dw, db, arena)
        arena.give(norm)

    def _pair(self, tensors: Tensors, name: str) -> tuple[Array, Array]:
        """The weight and the bias called `name` in this block."""
        return tensors[f"{self.prefix}{name}.weight"], tensors[f"{self.prefix}{name}.bias"]
