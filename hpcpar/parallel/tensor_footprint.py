"""What the layers of a GPT that ranks share take from an arena. Pure.

Each class goes through the steps of a layer (`rehearsal.py`): compare them side by side.
"""

from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hpcpar.nn.footprint import Sizes
from hpcpar.parallel.attention_rehearsal import (
    HeadSizes,
    Queries,
    attention_backward,
    attention_forward,
)
from hpcpar.parallel.rehearsal import Lent, Rehearsal, Totals
from hpcpar.parallel.tensor_group import TensorGroup
from hpcpar.parallel.tensor_rehearsal import (
    NormSizes,
    bias_gradient,
    column_product,
    gather,
    gelu_backward,
    gelu_forward,
    norm_backward,
    norm_forward,
    row_input_gradient,
    start_sum,
    sum_rows,
    summed_product,
    weight_gradient,
)
from hpcpar.parallel.tiles import Tiles

if TYPE_CHECKING:
    from hpcpar.parallel.tensor_block import TensorBlock
    from hpcpar.parallel.tensor_vocabulary import TensorEmbedding, TensorHead

__all__ = ["BlockSteps", "EmbeddingSteps", "HeadSteps", "loss_scratch"]


class HiddenSizes(NamedTuple):
    """`block.Hidden`, in bytes."""

    out: int
    slope: int


class KeptSizes(NamedTuple):
    """`tensor_block.Kept`, in bytes; work, the names of products."""

    work: list[str]
    small: list[int]
    arrays: list[Lent]


class BlockSteps:
    """Of a `TensorBlock`, for inputs (B, T, C)."""

    def __init__(self, block: "TensorBlock", shape: tuple[int, ...]) -> None:
        batch, length, self._width = shape
        self._group, self._block = block.group, block
        self._count = batch * length
        self._in, self._out = block.products_in, block.products_out
        self._heads = len(self._out["attn.c_proj"].tiles.held)  # channels of heads here
        self._units = len(self._out["mlp.c_proj"].tiles.held)
        channels = self._heads // block.heads
        self._queries = Queries(batch, length, block.heads, channels, self._group.context.spans)

    def forward(self, arena: Rehearsal, x: int) -> tuple[int, Lent]:
        count, width, group = self._count, self._width, self._group
        norm_1 = norm_forward(group, count, width, arena)
        lent = gather(group, count, width, arena)
        qkv = arena.take((count, 3 * self._heads))
        column_product(self._in["attn.c_attn"], (count, width, 3 * self._heads), arena)
        heads = attention_forward(self._queries, qkv, arena)
        arena.give(lent)
        self._project("attn.c_proj", arena)
        norm_2 = norm_forward(group, count, width, arena)
        lent = gather(group, count, width, arena)
        hidden = HiddenSizes(*(arena.take((count, self._units)) for _ in range(2)))
        column_product(self._in["mlp.c_fc"], (count, width, self._units), arena)
        gelu_forward(count, self._units, arena)
        arena.give(lent)
        self._project("mlp.c_proj", arena)
        return x, (norm_1, heads, norm_2, hidden)

    def backward(self, arena: Rehearsal, dy: int, saved: Lent) -> int:
        dx, kept = self._backward(arena, dy, saved, now=True)
        self.backward_weight(arena, kept)
        return dx

    def backward_input(self, arena: Rehearsal, dy: int, saved: Lent) -> tuple[int, KeptSizes]:
        return self._backward(arena, dy, saved, now=False)

    def backward_weight(self, arena: Rehearsal, kept: KeptSizes) -> None:
        for name in kept.work:
            self._weight(name, arena)
        arena.give(kept.small, kept.arrays)

    def _backward(
        self,
        arena: Rehearsal,
        dy: int,
        saved: tuple[NormSizes, HeadSizes, NormSizes, HiddenSizes],
        now: bool,
    ) -> tuple[int, KeptSizes]:
        norm_1, heads, norm_2, hidden = saved
        count, width, group = self._count, self._width, self._group
        kept = KeptSizes([], [], [dy, hidden.out, heads.out, norm_1.out, norm_2.out])

        def weight(name: str) -> None:
            if now:
                self._weight(name, arena)
            else:
                kept.work.append(name)

        def through_out(name: str, inputs: int) -> None:
            kept.arrays.append(gather(group, count, width, arena))
            row_input_gradient(self._out[name], (count, width, inputs), arena)
            weight(name)

        def through_in(name: str, norm: NormSizes) -> int:
            branch, parts = summed_product(self._in[name], (count, width), arena)
            weight(name)
            arena.give(parts)
            kept.small.append(norm_backward(group, norm, count, width, arena))
            before = arena.take((count, width))
            arena.give(branch)
            return before

        d_hidden = arena.take((count, self._units))
        through_out("mlp.c_proj", self._units)
        kept.small.append(arena.take((self._units,)))
        gelu_backward(self._in["mlp.c_fc"], count, self._units, arena)
        arena.give(hidden.slope)
        middle = through_in("mlp.c_fc", norm_2)
        d_heads = arena.take((count, self._heads))
        through_out("attn.c_proj", self._heads)
        d_qkv = arena.take((count, 3 * self._heads))
        attention_backward(self._queries, arena)
        arena.give(heads.qkv, heads.scores, heads.inverse, d_heads)
        dx = through_in("attn.c_attn", norm_1)
        kept.arrays.extend((d_hidden, middle, d_qkv))
        return dx, kept

    def _project(self, name: str, arena: Rehearsal) -> None:
        y, parts = summed_product(self._out[name], (self._count, self._width), arena)
        arena.give(parts, y)

    def _weight(self, name: str, arena: Rehearsal) -> None:
        count, width, group = self._count, self._width, self._group
        if name in self._out:
            inputs = len(self._out[name].tiles.held)
            weight_gradient(self._out[name], count, inputs, width, arena)
            bias_gradient(group, count, width, arena)
            return
        lent = gather(group, count, width, arena)
        outputs = 3 * self._heads if name == "attn.c_attn" else self._units
        weight_gradient(self._in[name], count, width, outputs, arena)
        arena.give(lent)
        if name == "attn.c_attn":
            bias_gradient(group, count, outputs, arena)


class EmbeddingSteps:
    """Of a `TensorEmbedding`, for tokens (B, T)."""

    def __init__(self, layer: "TensorEmbedding", shape: tuple[int, ...]) -> None:
        self._group, (self._rows, self._width) = layer.group, layer.tokens.shape
        self._count = prod(layer.group.context.part_shape(shape))

    def forward(self, arena: Rehearsal, x: int) -> tuple[int, Lent]:
        tokens = x
        if self._group.context.spans.count > 1:
            tokens = arena.take((self._count,), np.int32)
            arena.give(x)
        return arena.take((self._count, self._width)), tokens

    def backward(self, arena: Rehearsal, dy: int, saved: Lent) -> None:
        lent = gather(self._group, self._count, self._width, arena)

        def write(rows: int) -> None:
            if arena.host:
                arena.over((rows, self._width))

        sum_rows(self._group, self._count, self._rows * self._width, write, arena)
        arena.give(dy, saved, lent)

    def backward_input(self, arena: Rehearsal, dy: int, saved: Lent) -> tuple[None, Lent]:
        return None, (dy, saved)

    def backward_weight(self, arena: Rehearsal, kept: Lent) -> None:
        self.backward(arena, *kept)


class HeadSteps:
    """Of a `TensorHead`, for inputs (B, T, C)."""

    def __init__(self, layer: "TensorHead", shape: tuple[int, ...]) -> None:
        self._group, self._product = layer.group, layer.product
        self._outputs, self._width = layer.output.shape
        self._count = prod(shape[:-1])

    def forward(self, arena: Rehearsal, x: int) -> tuple[int, Lent]:
        norm = norm_forward(self._group, self._count, self._width, arena)
        logits = arena.take((self._count, self._outputs))
        lent = gather(self._group, self._count, self._width, arena)
        column_product(self._product, (self._count, self._width, self._outputs), arena)
        arena.give(x, lent)
        return logits, norm

    def backward(self, arena: Rehearsal, dy: int, saved: Lent) -> int:
        dx, kept = self.backward_input(arena, dy, saved)
        self.backward_weight(arena, kept)
        return dx

    def backward_input(self, arena: Rehearsal, dy: int, saved: Lent) -> tuple[int, Lent]:
        branch, parts = summed_product(self._product, (self._count, self._width), arena)
        arena.give(parts)
        of_norm = norm_backward(self._group, saved, self._count, self._width, arena)
        dx = arena.take((self._count, self._width))
        arena.give(branch)
        return dx, (dy, saved.out, of_norm)

    def backward_weight(self, arena: Rehearsal, kept: Lent) -> None:
        lent = gather(self._group, self._count, self._width, arena)
        weight_gradient(self._product, self._count, self._width, self._outputs, arena)
        arena.give(kept, lent)


def loss_scratch(group: TensorGroup, tiles: Tiles, count: int) -> Sizes:
    """What `TensorCrossEntropy.value_and_gradient` takes for so many rows of logits."""
    arena, shape = Rehearsal(), (2, count)
    top, sums = arena.take((count, 1)), Totals(len(tiles.runs), shape, arena)
    leaves = [sums.buffer() for _ in tiles.mine]
    for number, leaf in zip(tiles.mine, leaves, strict=True):
        sums.add(number, leaf)
    total, parts = start_sum(group, tiles, sums.take(tiles.mine), shape, arena)
    arena.give(parts)
    losses = arena.take((count,), np.float64)
    arena.give(top, losses, total)
    return arena.peak
