"""What fully connected layers whose weight is cut take from an arena. Pure.

The class goes through the steps of a layer (`rehearsal.py`): compare them side by side.
"""

from typing import TYPE_CHECKING

from hpcpar.nn.footprint import gelu_backward_scratch
from hpcpar.parallel.rehearsal import Lent, Rehearsal
from hpcpar.parallel.tensor_linear import ColumnParallel
from hpcpar.parallel.tensor_rehearsal import (
    bias_gradient,
    column_product,
    gelu_backward,
    gelu_forward,
    row_input_gradient,
    summed_product,
    weight_gradient,
)

if TYPE_CHECKING:
    from hpcpar.parallel.tensor_dense import ColumnDense, RowDense

__all__ = ["DenseSteps"]


class DenseSteps:
    """Of a `ColumnDense` or a `RowDense`, for inputs (B, I)."""

    def __init__(self, layer: "ColumnDense | RowDense", shape: tuple[int, ...]) -> None:
        self._layer, self._product, self._count = layer, layer.product, shape[0]
        self._inputs, self._outputs = layer.weight.shape

    def forward(self, arena: Rehearsal, x: int) -> tuple[int, Lent]:
        count, inputs, outputs = self._count, self._inputs, self._outputs
        if isinstance(self._product, ColumnParallel):
            y = arena.take((count, outputs))
            column_product(self._product, (count, inputs, outputs), arena)
        else:
            y = self._summed(outputs, arena)
        if not self._layer.activation:
            return y, (x, [])
        slope = arena.take((count, outputs))
        gelu_forward(count, outputs, arena)
        return y, (x, [slope])

    def backward(self, arena: Rehearsal, dy: int, saved: Lent) -> int | None:
        dx, kept = self.backward_input(arena, dy, saved)
        self.backward_weight(arena, kept)
        return dx

    def backward_input(self, arena: Rehearsal, dy: int, saved: Lent) -> tuple[int | None, Lent]:
        db, dx = arena.take((self._outputs,)), None
        self._activation(arena)
        if not self._layer.first:
            dx = self._input_gradient(arena)
        x, slope = saved
        arena.give(slope)
        return dx, (x, dy, db)

    def backward_weight(self, arena: Rehearsal, kept: Lent) -> None:
        weight_gradient(self._product, self._count, self._inputs, self._outputs, arena)
        arena.give(kept)

    def _activation(self, arena: Rehearsal) -> None:
        """Back through it and the bias."""
        count, outputs = self._count, self._outputs
        if isinstance(self._product, ColumnParallel):
            if self._layer.activation:
                gelu_backward(self._product, count, outputs, arena)
            else:
                bias_gradient(self._product.group, count, outputs, arena)
        elif self._layer.activation:
            arena.over_sizes(gelu_backward_scratch(count, outputs, arena.host))

    def _input_gradient(self, arena: Rehearsal) -> int:
        if isinstance(self._product, ColumnParallel):
            return self._summed(self._inputs, arena)
        dx = arena.take((self._count, self._inputs))
        row_input_gradient(self._product, (self._count, self._outputs, self._inputs), arena)
        return dx

    def _summed(self, columns: int, arena: Rehearsal) -> int:
        total, parts = summed_product(self._product, (self._count, columns), arena, spread=False)
        arena.give(parts)
        return total
