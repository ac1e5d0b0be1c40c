"""What travels among the ranks that share a layer, for one micro-batch. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from hpcpar.nn import Model
from hpcpar.nn.model import Layer
from hpcpar.parallel.tensor_group import TensorGroup
from hpcpar.parallel.tiles import Tiles
from hpcpar.schedule.steps import extents

__all__ = ["Shared", "Traffic", "shared_layers"]


@dataclass(frozen=True)
class Traffic:
    """Of a layer on one rank.

    Attributes: group; tiles, over which an array of (rows, width) is summed; sums, how often that
    is in forward and in backward, every rank getting its rows of the sum where these are shared,
    otherwise all; whole, sums of which all ranks get everything; gathers, how often shared rows are
    brought together; small, sums of a few numbers a row; beside, whether a sum in backward goes on
    beside a weight's gradient; ring, elements of the keys and values that go round among
    context-parallel ranks; attended, operations of attention's products in forward.
    """

    group: TensorGroup
    tiles: Tiles
    rows: int
    width: int
    sums: tuple[int, int] = (0, 0)
    whole: tuple[int, int] = (0, 0)
    gathers: tuple[int, int] = (0, 0)
    small: int = 0
    beside: bool = False
    ring: int = 0
    attended: float = 0.0

    @property
    def scratch(self) -> int:
        """Elements that the largest of these sums needs beside what is summed."""
        shape, found = (self.rows, self.width), 0
        if self.group.size == 1:
            return 0
        for spread in {False, any(self.sums)}:
            steps = self.group.sum_steps(self.tiles, shape, spread)
            beside = (
                n for name, n in extents(steps).items() if not name.startswith(("out", "root"))
            )
            found = max(found, sum(beside))
        return found


@runtime_checkable
class Shared(Protocol):
    """A layer that several ranks share."""

    def traffic(self, shape: tuple[int, ...]) -> Traffic:
        """What travels for an x of this shape, as this rank has it."""


def shared_layers(
    model: Model, micro: int
) -> Iterator[tuple[Layer, tuple[int, ...], Traffic | None]]:
    """Every layer of a model, the shape of what goes into it, and its traffic if it is shared."""
    shape: tuple[int, ...] = (micro, *model.input_shape)
    for layer in model.layers:
        inner = getattr(layer, "layer", layer)  # of a recomputed one
        yield layer, shape, inner.traffic(shape) if isinstance(inner, Shared) else None
        shape = layer.output_shape(shape)
