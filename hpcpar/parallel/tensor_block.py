"""A transformer block whose heads and hidden units are shared by ranks."""

from hpcpar.device import Array, namespace
from hpcpar.nn import Arena, Cut
from hpcpar.nn.block import Block, Heads, Hidden, Norm
from hpcpar.nn.model import Tensors
from hpcpar.nn.ops import attention, gelu
from hpcpar.parallel.tensor_group import TensorGroup
from hpcpar.parallel.tensor_linear import ColumnParallel, RowParallel

__all__ = ["TensorBlock"]


class TensorBlock(Block):
    """(B, T, C) -> (B, T, C), the same on every rank.

    Attention and MLP are each a column-parallel product, something that each rank does with its own
    part, and a row-parallel product: two sums over the ranks forward, two backward. Norms, and the
    biases of what is added up, are on every rank.
    """

    def __init__(self, block: Block, group: TensorGroup) -> None:
        self.prefix = block.prefix
        shapes = {p.name.removeprefix(self.prefix): p.shape for p in block.parameters}
        width, hidden = shapes["mlp.c_fc.weight"]
        size = width // block.heads  # of a head
        heads, units = group.deal("heads", block.heads, size), group.deal("units", hidden)
        self.heads = len(heads.held) // size
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

    def backward(
        self,
        p: Tensors,
        g: Tensors,
        dy: Array,
        saved: tuple[Norm, Heads, Norm, Hidden],
        arena: Arena,
    ) -> Array:
        norm_1, heads, norm_2, hidden = saved
        stream = dy.reshape(-1, dy.shape[-1])

        d_hidden = arena.take(hidden.out.shape, dy.dtype)
        self._out_backward("mlp.c_proj", p, g, hidden.out, stream, d_hidden, arena)
        _, db = self._pair(g, "mlp.c_fc")
        for at in self.products_in["mlp.c_fc"].columns:  # see ColumnDense
            gelu.backward(d_hidden[:, at], hidden.slope[:, at], db[at], arena)
        self._in_backward("ln_2", "mlp.c_fc", p, g, norm_2, d_hidden, stream, arena)
        arena.give(hidden, d_hidden)

        d_heads = arena.take(heads.out.shape, dy.dtype)
        attended, rows = (a.reshape(len(stream), -1) for a in (heads.out, d_heads))
        self._out_backward("attn.c_proj", p, g, attended, stream, rows, arena)
        d_qkv = arena.take(heads.qkv.shape, dy.dtype)
        attention.backward(
            d_heads, heads.out, heads.qkv, self.heads, heads.scores, heads.inverse, d_qkv, arena
        )
        rows = d_qkv.reshape(len(stream), -1)
        rows.sum(axis=0, out=self._pair(g, "attn.c_attn")[1])
        self._in_backward("ln_1", "attn.c_attn", p, g, norm_1, rows, stream, arena)
        arena.give(heads, d_heads, d_qkv)
        return dy

    def _attention(self, p: Tensors, x: Array, shape: tuple[int, ...], arena: Arena) -> Heads:
        batch, length, _ = shape
        w, b = self._pair(p, "attn.c_attn")
        qkv = arena.take((batch, length, w.shape[1]), x.dtype)
        scores = arena.take((batch, self.heads, length, length), x.dtype)
        inverse = arena.take((batch, self.heads, length, 1), x.dtype)
        out = arena.take((batch, length, w.shape[1] // 3), x.dtype)
        self.products_in["attn.c_attn"].forward(x, w, qkv.reshape(len(x), -1), arena)
        attention.forward(qkv, b, self.heads, out, scores, inverse, arena)
        return Heads(qkv, scores, inverse, out)

    def _hidden(self, p: Tensors, x: Array, arena: Arena) -> Hidden:
        w, b = self._pair(p, "mlp.c_fc")
        out = arena.take((len(x), w.shape[1]), x.dtype)
        slope = arena.take(out.shape, x.dtype)
        self.products_in["mlp.c_fc"].forward(x, w, out, arena)
        gelu.forward(out, b, slope, arena)
        return Hidden(out, slope)

    def _project(self, name: str, p: Tensors, x: Array, stream: Array, arena: Arena) -> None:
        """stream += x @ w + b, the product summed over the ranks."""
        xp = namespace(stream)
        w, b = self._pair(p, name)
        y = self.products_out[name].forward(x, w, stream.shape, arena).wait()
        xp.add(y, b, out=y)
        xp.add(stream, y, out=stream)
        arena.give(y)

    def _out_backward(
        self,
        name: str,
        p: Tensors,
        g: Tensors,
        x: Array,
        stream: Array,
        dx: Array,
        arena: Arena,
    ) -> None:
        """Back through `_project`: dx from the gradient of the stream."""
        dw, db = self._pair(g, name)
        self.products_out[name].input_gradient(stream, self._pair(p, name)[0], dx, arena)
        self.products_out[name].weight_gradient(x, stream, dw, arena)
        stream.sum(axis=0, out=db)

    def _in_backward(
        self,
        norm_name: str,
        name: str,
        p: Tensors,
        g: Tensors,
        norm: Norm,
        dy: Array,
        stream: Array,
        arena: Arena,
    ) -> None:
        """Back through product and norm to the stream's gradient; `norm` is given back."""
        product, w = self.products_in[name], self._pair(p, name)[0]
        pending = product.input_gradient(dy, w, stream.shape, arena)
        dw, _ = self._pair(g, name)
        product.weight_gradient(norm.out, dy, dw, arena)  # while the sum is under way
        branch = pending.wait()
        self._norm_backward(norm_name, p, g, branch, norm, arena)
        namespace(stream).add(stream, branch, out=stream)
        arena.give(branch)
