"""A transformer block whose heads and hidden units are shared by ranks."""

from hpcpar.device import Array, namespace
from hpcpar.nn import Arena, Cut
from hpcpar.nn.block import Block, Heads, Hidden, Norm
from hpcpar.nn.model import Tensors
from hpcpar.nn.ops import attention, gelu
from hpcpar.parallel.tensor_group import TensorGroup
from hpcpar.parallel.tensor_linear import ColumnParallel, RowParallel
from hpcpar.parallel.tensor_norm import TensorNorm

__all__ = ["TensorBlock"]


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
        self.heads = len(heads.held) // size
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

    def forward(
        self, p: Tensors, x: Array, arena: Arena
    ) -> tuple[Array, tuple[Norm, Heads, Norm, Hidden]]:
        stream = x.reshape(-1, x.shape[-1])  # (N, C), N = B T
        norm_1 = self.norms["ln_1"].forward(p, stream, arena)
        with self.group.whole(norm_1.out, len(stream), arena) as rows:
            heads = self._attention(p, rows, x.shape, arena)
        self._project("attn.c_proj", p, heads.out.reshape(len(stream), -1), stream, arena)
        norm_2 = self.norms["ln_2"].forward(p, stream, arena)
        with self.group.whole(norm_2.out, len(stream), arena) as rows:
            hidden = self._hidden(p, rows, arena)
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
        """stream += x @ w + b, the product summed over the ranks; of the rows looked after."""
        xp, own = namespace(stream), self.group.own_rows(stream)
        w, b = self._pair(p, name)
        y = self.products_out[name].forward(x, w, arena, spread=True).wait()
        xp.add(y, b, out=y)
        xp.add(own, y, out=own)
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
        product, w, (dw, db) = self.products_out[name], self._pair(p, name)[0], self._pair(g, name)
        with self.group.whole(self.group.own_rows(stream), len(stream), arena) as dy:
            product.input_gradient(dy, w, dx, arena)
            product.weight_gradient(x, dy, dw, arena)
            dy.sum(axis=0, out=db)

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
        product, w, dw = self.products_in[name], self._pair(p, name)[0], self._pair(g, name)[0]
        pending = product.input_gradient(dy, w, arena, spread=True)
        with self.group.whole(norm.out, len(stream), arena) as rows:
            product.weight_gradient(rows, dy, dw, arena)  # while the sum is under way
        branch = pending.wait()
        self.norms[norm_name].backward(p, g, branch, norm, len(stream), arena)
        own = self.group.own_rows(stream)
        namespace(own).add(own, branch, out=own)
        arena.give(branch)

    def _pair(self, tensors: Tensors, name: str) -> tuple[Array, Array]:
        """The weight and the bias called `name` in this block."""
        return tensors[f"{self.prefix}{name}.weight"], tensors[f"{self.prefix}{name}.bias"]
