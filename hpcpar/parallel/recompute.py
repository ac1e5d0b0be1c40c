"""A layer that keeps its input only, and computes the rest again in backward.

Chen et al., "Training deep nets with sublinear memory cost" (arXiv:1604.06174).
"""

from dataclasses import replace
from math import prod
from typing import Any

from hpcpar.device import Array
from hpcpar.nn.arena import Arena
from hpcpar.nn.documents import within
from hpcpar.nn.footprint import Footprint, Sizes, floats
from hpcpar.nn.model import Layer, Model, Tensors, planned

__all__ = ["Recompute", "recomputed"]


class Recompute:
    """Another layer, with the same bits: the same arithmetic on the same arrays."""

    def __init__(self, layer: Layer) -> None:
        self.layer, self.parameters = layer, layer.parameters

    def within(self, starts: Array) -> "Recompute":
        """Of the layer within documents, where it looks at them."""
        return Recompute(within([self.layer], starts)[0])

    def forward(self, p: Tensors, x: Array, arena: Arena) -> tuple[Array, Any]:
        kept = arena.copy(x)
        y, saved = self.layer.forward(p, x, arena)
        _give(arena, saved, y)
        return y, kept

    def backward(self, p: Tensors, g: Tensors, dy: Array, saved: Any, arena: Arena) -> Array | None:
        return self.layer.backward(p, g, dy, self._again(p, saved, arena), arena)

    def backward_input(
        self, p: Tensors, dy: Array, saved: Any, arena: Arena
    ) -> tuple[Array | None, Any]:
        return self.layer.backward_input(p, dy, self._again(p, saved, arena), arena)

    def backward_weight(self, g: Tensors, kept: Any, arena: Arena) -> None:
        self.layer.backward_weight(g, kept, arena)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self.layer.output_shape(shape)

    def footprint(self, shape: tuple[int, ...], host: bool = True) -> Footprint:
        inner, x = planned(self.layer).footprint(shape, host), floats((prod(shape), 1))
        rest = Sizes(inner.saved)  # beyond the copy of the input, which the inner layer takes over
        rest.subtract(x)
        return replace(
            inner,
            saved=x,
            forward=x + inner.forward,
            backward=inner.forward | (rest + inner.backward),
            input=inner.forward | (rest + inner.input),
        )

    def flops(self, shape: tuple[int, ...]) -> float:
        return planned(self.layer).flops(shape)

    def _again(self, p: Tensors, x: Array, arena: Arena) -> Any:
        y, saved = self.layer.forward(p, x, arena)
        if not _holds(saved, y):
            arena.give(y)
        return saved


def recomputed(model: Model) -> Model:
    """The model with all layers recomputed but the first and the last, which keep little else."""
    inner = [Recompute(layer) for layer in model.layers[1:-1]]
    return model.with_layers([*model.layers[:1], *inner, *model.layers[1:][-1:]])


def _give(arena: Arena, saved: Any, y: Array) -> None:
    """Give back what was saved, but not the output, which goes on."""
    for item in saved if isinstance(saved, tuple | list) else (saved,):
        if isinstance(item, tuple | list):
            _give(arena, item, y)
        elif item is not y:
            arena.give(item)


def _holds(saved: Any, y: Array) -> bool:
    if isinstance(saved, tuple | list):
        return any(_holds(item, y) for item in saved)
    return saved is y
