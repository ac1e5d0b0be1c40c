"""The first and the last layer of a GPT, with a vocabulary that is shared by ranks.

A rank holds some rows of the embedding, and the same rows as its part of the output projection.
"""

from typing import Any

from hpcpar.device import Array, namespace
from hpcpar.nn import Arena, Cut
from hpcpar.nn.embedding import Embedding
from hpcpar.nn.head import Head
from hpcpar.nn.model import Tensors
from hpcpar.nn.ops import embedding, layernorm
from hpcpar.parallel.tensor_group import TensorGroup
from hpcpar.parallel.tensor_linear import ColumnParallel

__all__ = ["TensorEmbedding", "TensorHead"]


class TensorEmbedding:
    """Tokens (B, T) -> wte[token] + wpe[position] (B, T, C), the same on every rank.

    A rank looks up the tokens that it has; the sum over the ranks is exact, for all terms but one
    are -0. Positions are on every rank.
    """

    def __init__(self, layer: Embedding, group: TensorGroup) -> None:
        self.group = group
        self.vocabulary, _ = layer.tokens.shape
        self.tiles = group.deal("tokens", self.vocabulary)
        self.tokens = layer.tokens.held(Cut(layer.tokens.shape, 0, self.tiles.cuts()))
        self.positions = layer.positions
        self.parameters = [self.tokens, self.positions]

    def forward(self, p: Tensors, x: Array, arena: Arena) -> tuple[Array, Any]:
        table, positions = p[self.tokens.name], p[self.positions.name]
        batch, length = x.shape
        if length > len(positions):
            raise ValueError(
                f"a sequence has {length} tokens, the model's context {len(positions)}"
            )
        y = arena.take((batch, length, table.shape[1]), table.dtype)
        rows, first = y.reshape(batch * length, -1), self.tiles.held.start
        embedding.forward_part(x.reshape(-1), table, first, self.vocabulary, rows)
        self.group.combine(y)
        namespace(y).add(y, positions[:length], out=y)
        return y, x

    def backward(self, p: Tensors, g: Tensors, dy: Array, saved: Any, arena: Arena) -> None:
        tokens, length = saved, saved.shape[1]
        positions = g[self.positions.name]
        dy.sum(axis=0, out=positions[:length])
        positions[length:] = 0
        rows, first = dy.reshape(-1, dy.shape[-1]), self.tiles.held.start
        embedding.backward(tokens.reshape(-1), rows, g[self.tokens.name], arena, first)
        arena.give(dy, tokens)


class TensorHead:
    """(B, T, C) -> this rank's part of the logits (B, T, V). The norm is on every rank."""

    def __init__(self, layer: Head, group: TensorGroup) -> None:
        tiles = group.deal("tokens", layer.output.shape[0])
        self.product = ColumnParallel(group, tiles)
        self.weight, self.bias = layer.weight, layer.bias
        self.output = layer.output.held(Cut(layer.output.shape, 0, tiles.cuts()))
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
        self.product.forward(out, output.T, logits.reshape(len(rows), -1), arena)
        return logits, (out, normal, rstd)

    def backward(self, p: Tensors, g: Tensors, dy: Array, saved: Any, arena: Arena) -> Array:
        out, normal, rstd = saved
        rows, output = dy.reshape(len(out), -1), p[self.output.name]
        shape = (*dy.shape[:-1], out.shape[1])
        pending = self.product.input_gradient(rows, output.T, shape, arena)
        self.product.weight_gradient(out, rows, g[self.output.name].T, arena)
        dx = pending.wait()
        dw, db = g[self.weight.name], g[self.bias.name]
        within = dx.reshape(out.shape)
        layernorm.backward(within, p[self.weight.name], normal, rstd, dw, db, arena)
        arena.give(dy, saved)
        return dx
