"""A transformer block as GPT-2 has it: x + attention(norm(x)), then x + mlp(norm(x))."""

from copy import copy
from math import sqrt
from typing import NamedTuple

from hpcpar.device import Array, namespace
from hpcpar.nn.arena import Arena
from hpcpar.nn.attention import Attention, Heads
from hpcpar.nn.footprint import (
    Footprint,
    floats,
    gelu_backward_scratch,
    norm_backward_scratch,
)
from hpcpar.nn.model import Tensors
from hpcpar.nn.ops import gelu, layernorm, linear
from hpcpar.nn.ops.blocks import block_rows
from hpcpar.nn.parameters import Parameter

__all__ = ["Block"]


class Norm(NamedTuple):
    """What a layer norm leaves behind."""

    out: Array  # (N, C)
    normal: Array  # (N, C)
    rstd: Array  # (N, 1)


class Hidden(NamedTuple):
    """What the middle of the MLP leaves behind."""

    out: Array  # (N, 4 C)
    slope: Array  # (N, 4 C)


class Kept(NamedTuple):
    """What the gradients of the weights need: inputs of the products, and gradients of outputs."""

    hidden: Array  # (N, 4 C), into mlp.c_proj
    dy: Array  # (B, T, C), of it
    norm_2: Array  # (N, C), into mlp.c_fc
    d_hidden: Array  # (N, 4 C)
    heads: Array  # (B, T, C), into attn.c_proj
    middle: Array  # (N, C), gradient of the stream between the branches
    norm_1: Array  # (N, C), into attn.c_attn
    d_qkv: Array  # (B, T, 3 C)
    small: dict[str, Array]  # gradients that come with those of the inputs


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
        self._attend = Attention(heads)
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

    def within(self, starts: Array) -> "Block":
        """The block for sequences of several documents (`nn.documents`)."""
        block = copy(self)
        block._attend = self._attend.within(starts)
        return block

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
        self._attend.backward(branch.reshape(dy.shape), heads, d_qkv, arena)
        rows = d_qkv.reshape(len(stream), -1)
        self._linear_backward("attn.c_attn", p, g, norm_1.out, rows, branch)
        arena.give(heads, d_qkv)
        self._norm_backward("ln_1", p, g, branch, norm_1, arena)
        xp.add(stream, branch, out=stream)
        arena.give(branch)
        return dy

    def backward_input(
        self,
        p: Tensors,
        dy: Array,
        saved: tuple[Norm, Heads, Norm, Hidden],
        arena: Arena,
    ) -> tuple[Array, Kept]:
        """As `backward` does it, but with nothing overwritten that the weights' gradients need."""
        norm_1, heads, norm_2, hidden = saved
        xp = namespace(dy)
        stream = dy.reshape(-1, dy.shape[-1])
        small = {
            name: arena.take(p[f"{self.prefix}{name}"].shape, dy.dtype)
            for name in ("mlp.c_fc.bias", "ln_2.weight", "ln_2.bias", "ln_1.weight", "ln_1.bias")
        }

        def input_gradient(name: str, rows: Array, out: Array) -> None:
            linear.input_gradient(rows, self._pair(p, name)[0], out)

        def through_norm(name: str, branch: Array, norm: Norm) -> None:
            dw, db = small[f"{name}.weight"], small[f"{name}.bias"]
            w = self._pair(p, name)[0]
            layernorm.backward(branch, w, norm.normal, norm.rstd, dw, db, arena)
            arena.give(norm.normal, norm.rstd)

        d_hidden = arena.take(hidden.out.shape, dy.dtype)
        input_gradient("mlp.c_proj", stream, d_hidden)
        gelu.backward(d_hidden, hidden.slope, small["mlp.c_fc.bias"], arena)
        arena.give(hidden.slope)
        middle = arena.take(stream.shape, dy.dtype)
        input_gradient("mlp.c_fc", d_hidden, middle)
        through_norm("ln_2", middle, norm_2)
        xp.add(stream, middle, out=middle)

        branch = arena.take(stream.shape, dy.dtype)
        input_gradient("attn.c_proj", middle, branch)
        d_qkv = arena.take(heads.qkv.shape, dy.dtype)
        self._attend.backward(branch.reshape(dy.shape), heads, d_qkv, arena)
        arena.give(branch, heads.qkv, heads.scores, heads.inverse)
        dx = arena.take(dy.shape, dy.dtype)
        within = dx.reshape(stream.shape)
        input_gradient("attn.c_attn", d_qkv.reshape(len(stream), -1), within)
        through_norm("ln_1", within, norm_1)
        xp.add(middle, within, out=within)
        return dx, Kept(
            hidden.out, dy, norm_2.out, d_hidden, heads.out, middle, norm_1.out, d_qkv, small
        )

    def backward_weight(self, g: Tensors, kept: Kept, arena: Arena) -> None:
        rows = len(kept.middle)
        for name, x, dy in (
            ("mlp.c_proj", kept.hidden, kept.dy),
            ("attn.c_proj", kept.heads, kept.middle),
            ("attn.c_attn", kept.norm_1, kept.d_qkv),
        ):
            linear.weight_gradient(x.reshape(rows, -1), dy.reshape(rows, -1), *self._pair(g, name))
        dw = self._pair(g, "mlp.c_fc")[0]
        linear.weight_gradient(kept.norm_2, kept.d_hidden, dw, None)
        for name, gradient in kept.small.items():
            g[f"{self.prefix}{name}"][...] = gradient
        arena.give(kept[:-1], list(kept.small.values()))

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def footprint(self, shape: tuple[int, ...], host: bool = True) -> Footprint:
        batch, length, width = shape
        rows = batch * length
        stream, qkv, hidden = rows * width, 3 * rows * width, 4 * rows * width
        scores, sums = self.heads * length**2, rows * self.heads
        saved = floats(
            (stream, 5), (rows, 2), (qkv, 1), (batch * scores, 1), (sums, 1), (hidden, 2)
        )
        gelu_scratch = 2 * block_rows(rows, 4 * width, host)[0] * 4 * width
        within = floats((hidden, 1), (qkv, 1), (scores if host else batch * scores, 1), (sums, 1))
        within += floats((stream, 1)) + norm_backward_scratch(rows, width, host)
        within += gelu_backward_scratch(rows, 4 * width, host)
        small = floats((4 * width, 1), (width, 4))
        return Footprint(
            saved=saved,
            forward=saved + floats((stream, 1), (gelu_scratch, 1)),
            backward=within,
            input=within + small,
            kept=floats((hidden, 2), (stream, 5), (qkv, 1)) + small,
        )

    def flops(self, shape: tuple[int, ...]) -> float:
        batch, length, width = shape
        attended = 2 * batch * length * (length + 1) * width  # both products, causal
        return 2.0 * batch * length * 12 * width**2 + attended

    def _norm(self, name: str, p: Tensors, x: Array, arena: Arena) -> Norm:
        out, normal = arena.take(x.shape, x.dtype), arena.take(x.shape, x.dtype)
        rstd = arena.take((len(x), 1), x.dtype)
        layernorm.forward(x, *self._pair(p, name), out, normal, rstd, arena)
        return Norm(out, normal, rstd)

    def _attention(self, p: Tensors, x: Array, shape: tuple[int, ...], arena: Arena) -> Heads:
        batch, length, width = shape
        qkv = arena.take((batch, length, 3 * width), x.dtype)
        w, b = self._pair(p, "attn.c_attn")
        linear.forward(x, w, None, qkv.reshape(len(x), -1))
        return self._attend.forward(qkv, b, arena)

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
