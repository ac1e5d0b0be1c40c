"""The first and the last layer of a GPT, with a vocabulary that is shared by ranks.

A rank holds some rows of the embedding, and the same rows as its part of the output projection.
"""

from collections.abc import Iterator
from math import prod
from typing import Any

from hpcpar.device import Array, namespace
from hpcpar.nn import Arena, Cut
from hpcpar.nn.embedding import Embedding
from hpcpar.nn.footprint import Footprint
from hpcpar.nn.head import Head
from hpcpar.nn.model import Tensors
from hpcpar.nn.ops import embedding
from hpcpar.parallel.rehearsal import footprint
from hpcpar.parallel.tensor_footprint import EmbeddingSteps, HeadSteps
from hpcpar.parallel.tensor_group import TensorGroup
from hpcpar.parallel.tensor_linear import ColumnParallel
from hpcpar.parallel.tensor_norm import TensorNorm
from hpcpar.parallel.traffic import Traffic

__all__ = ["TensorEmbedding", "TensorHead"]


class TensorEmbedding:
    """Tokens (B, T) -> wte[token] + wpe[position] (B, T, C), the same on every rank.

    Of the positions a rank takes its own (`Context`), of the tokens those in its part of the
    table; the sum over the ranks is exact, for all terms but one are -0. All ranks have the table
    of positions.
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
        length = x.shape[1]
        if length > len(positions):
            raise ValueError(
                f"a sequence has {length} tokens, the model's context {len(positions)}"
            )
        tokens = self.group.context.take(x, arena)
        y = arena.take((*tokens.shape, table.shape[1]), table.dtype)
        rows, first = y.reshape(tokens.size, -1), self.tiles.held.start
        embedding.forward_part(tokens.reshape(-1), table, first, self.vocabulary, rows)
        self.group.combine(y)
        for part, places in self._spans(y, length):
            namespace(y).add(part, positions[places], out=part)
        return y, tokens

    def backward(self, p: Tensors, g: Tensors, dy: Array, saved: Any, arena: Arena) -> None:
        tokens, length = saved, self.group.context.length(saved)
        positions, flat = g[self.positions.name], tokens.reshape(-1)
        stream, first = dy.reshape(-1, dy.shape[-1]), self.tiles.held.start
        rows, lent = self.group.gather(self.group.own_rows(stream), len(stream), arena)
        positions[:length] = -0.0  # where another rank has the positions: added as it is
        positions[length:] = 0
        for part, places in self._spans(rows.reshape(dy.shape), length):
            part.sum(axis=0, out=positions[places])

        def total(at: slice, out: Array) -> None:
            embedding.backward(flat[at], rows[at], out, arena, first)

        self.group.sum_rows(len(rows), total, g[self.tokens.name], arena)
        arena.give(dy, tokens, lent)

    def backward_input(self, p: Tensors, dy: Array, saved: Any, arena: Arena) -> tuple[None, Any]:
        return None, (dy, saved)

    def backward_weight(self, g: Tensors, kept: Any, arena: Arena) -> None:
        dy, tokens = kept
        self.backward({}, g, dy, tokens, arena)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*self.group.context.part_shape(shape), self.tokens.shape[1])

    def footprint(self, shape: tuple[int, ...], host: bool = True) -> Footprint:
        return footprint(EmbeddingSteps(self, shape), 4 * prod(shape), host)

    def flops(self, shape: tuple[int, ...]) -> float:
        return 0.0

    def traffic(self, shape: tuple[int, ...]) -> Traffic:
        rows, width = prod(self.group.context.part_shape(shape)), self.tokens.shape[1]
        return Traffic(self.group, self.tiles, rows, width, whole=(1, 0), gathers=(0, 1))

    def _spans(self, x: Array, length: int) -> Iterator[tuple[Array, slice]]:
        """Each span of an array (s B, t, C), and its positions."""
        spans = self.group.context.spans
        if spans.count == 1:
            yield x, slice(0, length)
            return
        parts = x.reshape(spans.each, -1, *x.shape[1:])
        for part, number in zip(parts, spans.mine, strict=True):
            yield part, spans.positions(number)


class TensorHead:
    """(B, T, C) -> this rank's part of the logits (B, T, V). See `TensorBlock` about rows."""

    def __init__(self, layer: Head, group: TensorGroup) -> None:
        tiles = group.deal("tokens", layer.output.shape[0])
        self.group, self.product = group, ColumnParallel(group, tiles)
        self.norm = TensorNorm(group, layer.weight.name.removesuffix(".weight"))
        self.output = layer.output.held(Cut(layer.output.shape, 0, tiles.cuts()))
        self.parameters = [layer.weight, layer.bias, self.output]

    def forward(self, p: Tensors, x: Array, arena: Arena) -> tuple[Array, Any]:
        stream, output = x.reshape(-1, x.shape[-1]), p[self.output.name]
        norm = self.norm.forward(p, stream, arena)
        logits = arena.take((*x.shape[:-1], len(output)), x.dtype)
        rows, lent = self.group.gather(norm.out, len(stream), arena)
        self.product.forward(rows, output.T, logits.reshape(len(rows), -1), arena)
        arena.give(x, lent)
        return logits, norm

    def backward(self, p: Tensors, g: Tensors, dy: Array, saved: Any, arena: Arena) -> Array:
        dx, kept = self.backward_input(p, dy, saved, arena)
        self.backward_weight(g, kept, arena)
        return dx

    def backward_input(
        self, p: Tensors, dy: Array, saved: Any, arena: Arena
    ) -> tuple[Array, tuple[Array, ...]]:
        norm, output = saved, p[self.output.name]
        d_logits = dy.reshape(-1, dy.shape[-1])
        branch = self.product.input_gradient(d_logits, output.T, arena, spread=True).wait()
        of_norm = self.norm.backward(p, branch, norm, len(d_logits), arena)
        dx = arena.take((*dy.shape[:-1], output.shape[1]), dy.dtype)
        self.group.own_rows(dx.reshape(len(d_logits), -1))[...] = branch
        arena.give(branch)
        return dx, (dy, norm.out, of_norm)

    def backward_weight(self, g: Tensors, kept: tuple[Array, ...], arena: Arena) -> None:
        dy, out, of_norm = kept
        d_logits = dy.reshape(-1, dy.shape[-1])
        rows, lent = self.group.gather(out, len(d_logits), arena)
        self.product.weight_gradient(rows, d_logits, g[self.output.name].T, arena)
        self.norm.write(g, of_norm)
        arena.give(kept, lent)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-1], self.output.shape[0])

    def footprint(self, shape: tuple[int, ...], host: bool = True) -> Footprint:
        return footprint(HeadSteps(self, shape), 4 * prod(shape), host)

    def flops(self, shape: tuple[int, ...]) -> float:
        return 2.0 * prod(shape) * self.output.shape[0]

    def traffic(self, shape: tuple[int, ...]) -> Traffic:
        """With that of the loss."""
        rows, tiles = prod(shape[:-1]), self.product.tiles
        return Traffic(self.group, tiles, rows, shape[-1], sums=(0, 1), gathers=(1, 1), small=2)
