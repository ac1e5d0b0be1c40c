"""A transformer block whose heads and hidden units are shared by ranks."""

from collections.abc import Callable
from copy import copy
from math import prod
from typing import Any, NamedTuple

from hpcpar.device import Array, namespace
from hpcpar.nn import Arena, Cut
from hpcpar.nn.attention import Attention, Heads
from hpcpar.nn.block import Block, Hidden, Norm
from hpcpar.nn.footprint import Footprint
from hpcpar.nn.model import Tensors
from hpcpar.nn.ops import gelu
from hpcpar.parallel.rehearsal import footprint
from hpcpar.parallel.span_attention import SpanAttention
from hpcpar.parallel.tensor_footprint import BlockSteps
from hpcpar.parallel.tensor_group import TensorGroup
from hpcpar.parallel.tensor_linear import ColumnParallel, RowParallel
from hpcpar.parallel.tensor_norm import TensorNorm
from hpcpar.parallel.traffic import Traffic

__all__ = ["TensorBlock"]


class Kept(NamedTuple):
    """What the gradients of a block's parameters need."""

    work: list[tuple[str, Array, Array]]  # products whose weights' gradients are to be computed
    small: dict[str, Array]  # gradients that come with those of the inputs
    arrays: list[Array]  # that are lent


class TensorBlock:
    """(B, T, C) -> (B, T, C), the same on every rank; or each looks after its own of the B T rows.

    Attention and MLP are each a norm, a column-parallel product, something that each rank does with
    its own part, and a row-parallel product: two sums over the ranks forward, two backward. Norms,
    and the biases of what is added up, are on every rank.

    With shared rows (Korthikanti et al., arXiv:2205.05198, section 4.2) a sum gives a rank the rows
    that it looks after, and what products take is brought together before them: what moves is the
    same, but norms and what they leave behind are shared. Of the arrays that go from layer to layer
    a rank then reads and writes its rows alone.
    """

    def __init__(self, block: Block, group: TensorGroup) -> None:
        self.group, self.prefix = group, block.prefix
        shapes = {p.name.removeprefix(self.prefix): p.shape for p in block.parameters}
        width, hidden = shapes["mlp.c_fc.weight"]
        size = width // block.heads  # of a head
        heads, units = group.deal("heads", block.heads, size), group.deal("units", hidden)
        self.heads, spans = len(heads.held) // size, group.context.spans.count
        self.attention: Attention | SpanAttention = (
            Attention(self.heads) if spans == 1 else SpanAttention(group.context, self.heads)
        )
        self.norms = {name: TensorNorm(group, self.prefix + name) for name in ("ln_1", "ln_2")}
        self.products_in = {
            "attn.c_attn": ColumnParallel(group, heads, groups=3),
            "mlp.c_fc": ColumnParallel(group, units),
        }
        self.products_out = {
            "attn.c_proj": RowParallel(group, heads),
            "mlp.c_proj": RowParallel(group, units),
        }
        cuts = {
            "attn.c_attn.weight": (1, heads.cuts(groups=3)),
            "attn.c_attn.bias": (0, heads.cuts(groups=3)),
            "attn.c_proj.weight": (0, heads.cuts()),
            "mlp.c_fc.weight": (1, units.cuts()),
            "mlp.c_fc.bias": (0, units.cuts()),
            "mlp.c_proj.weight": (0, units.cuts()),
        }
        held = {
            self.prefix + name: Cut(shapes[name], axis, runs) for name, (axis, runs) in cuts.items()
        }
        self.parameters = [p.held(held[p.name]) if p.name in held else p for p in block.parameters]

    def within(self, starts: Array) -> "TensorBlock":
        """The block for sequences of several documents (`nn.documents`), the same on every rank."""
        block = copy(self)
        block.attention = self.attention.within(starts)
        return block

    def forward(
        self, p: Tensors, x: Array, arena: Arena
    ) -> tuple[Array, tuple[Norm, Heads, Norm, Hidden]]:
        stream = x.reshape(-1, x.shape[-1])  # (N, C), N = B T
        norm_1 = self.norms["ln_1"].forward(p, stream, arena)
        rows, lent = self.group.gather(norm_1.out, len(stream), arena)
        heads = self._attention(p, rows, x.shape, arena)
        arena.give(lent)
        self._project("attn.c_proj", p, heads.out.reshape(len(stream), -1), stream, arena)
        norm_2 = self.norms["ln_2"].forward(p, stream, arena)
        rows, lent = self.group.gather(norm_2.out, len(stream), arena)
        hidden = self._hidden(p, rows, arena)
        arena.give(lent)
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
        def now(name: str, x: Array, dy: Array) -> None:  # while a sum is under way
            self._weight_gradient(g, name, x, dy, arena)

        dx, kept = self._backward(p, dy, saved, arena, now)
        self.backward_weight(g, kept, arena)
        return dx

    def backward_input(
        self, p: Tensors, dy: Array, saved: tuple[Norm, Heads, Norm, Hidden], arena: Arena
    ) -> tuple[Array, Kept]:
        work: list[tuple[str, Array, Array]] = []

        def later(*product: Any) -> None:
            work.append(product)

        dx, kept = self._backward(p, dy, saved, arena, later)
        return dx, kept._replace(work=work)

    def backward_weight(self, g: Tensors, kept: Kept, arena: Arena) -> None:
        for name, x, dy in kept.work:
            self._weight_gradient(g, name, x, dy, arena)
        for name, norm in self.norms.items():
            norm.write(g, kept.small[name])
        self._pair(g, "mlp.c_fc")[1][...] = kept.small["mlp.c_fc"]
        arena.give(list(kept.small.values()), kept.arrays)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def footprint(self, shape: tuple[int, ...], host: bool = True) -> Footprint:
        tiles = (product.tiles for product in self.products_out.values())
        return self.group.once(
            (self.heads, *tiles, shape, host),
            lambda: footprint(BlockSteps(self, shape), 4 * prod(shape), host),
        )

    def flops(self, shape: tuple[int, ...]) -> float:
        batch, length, width = shape
        heads, units = (len(product.tiles.held) for product in self.products_out.values())
        return 2.0 * batch * length * width * (4 * heads + 2 * units) + self._attended(shape)

    def traffic(self, shape: tuple[int, ...]) -> Traffic:
        rows, width, tiles = shape[0] * shape[1], shape[2], self.products_out["attn.c_proj"].tiles
        ring = 2 * rows * len(tiles.held) if self.group.context.spans.ranks > 1 else 0
        return Traffic(
            self.group, tiles, rows, width, sums=(2, 2), gathers=(2, 4), beside=True, ring=ring,
            attended=self._attended(shape),
        )  # fmt: skip

    def _attended(self, shape: tuple[int, ...]) -> float:
        """Operations of both products of attention, causal."""
        (batch, length, _), spans = shape, self.group.context.spans
        before = [length * number for number in spans.mine]  # whole spans, then its own
        pairs = sum(length * n + length * (length + 1) / 2 for n in before)
        heads = len(self.products_out["attn.c_proj"].tiles.held)
        return 4 * heads * batch // spans.each * pairs

    def _backward(
        self,
        p: Tensors,
        dy: Array,
        saved: tuple[Norm, Heads, Norm, Hidden],
        arena: Arena,
        weight: Callable[[str, Array, Array], None],
    ) -> tuple[Array, Kept]:
        """dx, and what is kept; weight(name, x, dy) is told of a weight's gradient to compute.

        Arrays stay as they are until they are given back, so that can be done at any time.
        """
        norm_1, heads, norm_2, hidden = saved
        kept = Kept([], {}, [dy, hidden.out, heads.out, norm_1.out, norm_2.out])

        d_hidden = arena.take(hidden.out.shape, dy.dtype)
        self._through_out("mlp.c_proj", p, hidden.out, dy, d_hidden, kept, arena, weight)
        kept.small["mlp.c_fc"] = db = arena.take(d_hidden.shape[1:], dy.dtype)
        self.products_in["mlp.c_fc"].gelu_backward(d_hidden, hidden.slope, db, arena)
        arena.give(hidden.slope)
        middle = self._through_in("mlp.c_fc", "ln_2", p, norm_2, d_hidden, dy, kept, arena, weight)

        d_heads = arena.take(heads.out.shape, dy.dtype)
        rows = d_heads.reshape(len(d_hidden), -1)
        attended = heads.out.reshape(rows.shape)
        self._through_out("attn.c_proj", p, attended, middle, rows, kept, arena, weight)
        d_qkv = arena.take(heads.qkv.shape, dy.dtype)
        self.attention.backward(d_heads, heads, d_qkv, arena)
        arena.give(heads.qkv, heads.scores, heads.inverse, d_heads)
        rows = d_qkv.reshape(len(d_hidden), -1)
        dx = self._through_in("attn.c_attn", "ln_1", p, norm_1, rows, middle, kept, arena, weight)
        kept.arrays.extend((d_hidden, middle, d_qkv))
        return dx, kept

    def _attention(self, p: Tensors, x: Array, shape: tuple[int, ...], arena: Arena) -> Heads:
        batch, length, _ = shape
        w, b = self._pair(p, "attn.c_attn")
        qkv = arena.take((batch, length, w.shape[1]), x.dtype)
        self.products_in["attn.c_attn"].forward(x, w, qkv.reshape(len(x), -1), arena)
        return self.attention.forward(qkv, b, arena)

    def _hidden(self, p: Tensors, x: Array, arena: Arena) -> Hidden:
        w, b = self._pair(p, "mlp.c_fc")
        out = arena.take((len(x), w.shape[1]), x.dtype)
        slope = arena.take(out.shape, x.dtype)
        self.products_in["mlp.c_fc"].forward(x, w, out, arena)
        gelu.forward(out, b, slope, arena)
        return Hidden(out, slope)

    def _project(self, name: str, p: Tensors, x: Array, stream: Array, arena: Arena) -> None:
        """stream += x @ w + b, the product summed over the ranks; of the rows looked after."""
        xp, own = namespace(stream), self.group.own_rows(stream)
        w, b = self._pair(p, name)
        y = self.products_out[name].forward(x, w, arena, spread=True).wait()
        xp.add(y, b, out=y)
        xp.add(own, y, out=own)
        arena.give(y)

    def _through_out(
        self,
        name: str,
        p: Tensors,
        x: Array,
        dy: Array,
        dx: Array,
        kept: Kept,
        arena: Arena,
        weight: Callable[[str, Array, Array], None],
    ) -> None:
        """Back through `_project` of x: dx from the gradient of the stream."""
        stream = dy.reshape(len(x), -1)
        rows, lent = self.group.gather(self.group.own_rows(stream), len(x), arena)
        kept.arrays.extend(lent)
        self.products_out[name].input_gradient(rows, self._pair(p, name)[0], dx, arena)
        weight(name, x, rows)

    def _through_in(
        self,
        name: str,
        norm_name: str,
        p: Tensors,
        norm: Norm,
        dy: Array,
        stream: Array,
        kept: Kept,
        arena: Arena,
        weight: Callable[[str, Array, Array], None],
    ) -> Array:
        """Back through product and norm: the gradient of the stream before, from that after."""
        pending = self.products_in[name].input_gradient(
            dy, self._pair(p, name)[0], arena, spread=True
        )
        weight(name, norm.out, dy)
        branch = pending.wait()
        kept.small[norm_name] = self.norms[norm_name].backward(p, branch, norm, len(dy), arena)
        before = arena.take(stream.shape, stream.dtype)
        after, out = (self.group.own_rows(a.reshape(len(dy), -1)) for a in (stream, before))
        namespace(out).add(after, branch, out=out)
        arena.give(branch)
        return before

    def _weight_gradient(self, g: Tensors, name: str, x: Array, dy: Array, arena: Arena) -> None:
        """Of a product: by its input as it was saved, and the gradient of all its output's rows."""
        dw, db = self._pair(g, name)
        if name in self.products_out:
            self.products_out[name].weight_gradient(x, dy, dw, arena)
            self.products_out[name].bias_gradient(dy, db, arena)
            return
        rows, lent = self.group.gather(x, len(dy), arena)
        self.products_in[name].weight_gradient(rows, dy, dw, arena)
        arena.give(lent)
        if name == "attn.c_attn":  # the other's bias goes with the GELU
            self.products_in[name].bias_gradient(dy, db, arena)

    def _pair(self, tensors: Tensors, name: str) -> tuple[Array, Array]:
        """The weight and the bias called `name` in this block."""
        return tensors[f"{self.prefix}{name}.weight"], tensors[f"{self.prefix}{name}.bias"]
