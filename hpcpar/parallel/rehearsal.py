"""What shared layers take from an arena, found by going through their steps with sizes only. Pure.

A layer whose work is cut into tiles lends arrays in an order that no formula tells well. So its
footprint is rehearsed: the same arrays are taken and given back as in the layer's own functions,
but they are numbers, bytes. `tests/unit/test_nn_footprint.py` holds both equal.
"""

from collections.abc import Sequence
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hpcpar.nn.footprint import Footprint, Sizes
from hpcpar.tree import Subtotals

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Lent", "Rehearsal", "Rehearsed", "Totals", "footprint"]

Lent = Any  # bytes of an array, or a sequence of such


class Rehearsal:
    """An arena without arrays: it knows how many of each size are lent, and the most that were.

    Args:
        lent: so many are at the start.
        host: whether operations go block by block, as on a CPU.
    """

    def __init__(self, lent: Sizes | None = None, host: bool = True) -> None:
        self.host = host
        self.now = Sizes(lent or {})
        self._before, self._most = self.now.copy(), self.now.copy()

    @property
    def peak(self) -> Sizes:
        """The most of each size that were lent beyond those at the start."""
        return self._most - self._before

    def take(self, shape: tuple[int, ...], dtype: Any = np.float32) -> int:
        """Lend an array: its bytes stand for it."""
        size = prod(shape) * np.dtype(dtype).itemsize
        self.now[size] += 1
        self._most[size] = max(self._most[size], self.now[size])
        return size

    def give(self, *lent: Lent) -> None:
        """Take back."""
        for one in lent:
            if isinstance(one, Sequence):
                self.give(*one)
            else:
                self.now[one] -= 1

    @contextmanager
    def lend(self, *shapes: tuple[int, ...]) -> "Iterator[None]":
        """Arrays of float32 for a while."""
        lent = [self.take(shape) for shape in shapes]
        yield
        self.give(lent)

    def over(self, *shapes: tuple[int, ...]) -> None:
        """Arrays that one operation takes and gives back."""
        with self.lend(*shapes):
            pass

    def over_sizes(self, sizes: Sizes) -> None:
        """The same, in bytes."""
        for size, count in sizes.items():
            self._most[size] = max(self._most[size], self.now[size] + count)


class Totals(Subtotals):
    """`Subtotals` of arrays of a shape, in a rehearsal: nothing is added."""

    def __init__(self, leaves: int, shape: tuple[int, ...], arena: Rehearsal) -> None:
        arena.over(shape)  # the real ones are shown an array of their shape
        super().__init__(leaves, np.broadcast_to(np.float32(0), shape), arena)

    def _write(self, first: Lent, second: Lent) -> None:
        """Nothing to add."""


class Rehearsed(Protocol):
    """A layer's steps, for an input of one shape; what goes in is lent before, and what is left
    afterwards is what the layer's own functions leave.
    """

    def forward(self, arena: Rehearsal, x: int) -> tuple[int, Lent]:
        """The output, and what is saved."""

    def backward(self, arena: Rehearsal, dy: int, saved: Lent) -> int | None:
        """The gradient of the input, if there is one."""

    def backward_input(self, arena: Rehearsal, dy: int, saved: Lent) -> tuple[int | None, Lent]:
        """It, and what is kept."""

    def backward_weight(self, arena: Rehearsal, kept: Lent) -> None:
        """The rest."""


def footprint(steps: Rehearsed, x: int, host: bool) -> Footprint:
    """Of a layer with these steps, for an input of so many bytes."""
    ahead = Rehearsal(Sizes({x: 1}), host)
    y, saved = steps.forward(ahead, x)
    left = ahead.now
    both, half = Rehearsal(left, host), Rehearsal(left, host)
    steps.backward(both, y, saved)
    dx, kept = steps.backward_input(half, y, saved)
    rest = Rehearsal(half.now, host)
    if dx is not None:
        rest.give(dx)
    held = +rest.now
    steps.backward_weight(rest, kept)
    left[y] -= 1
    return Footprint(
        saved=+left, forward=ahead.peak, backward=both.peak, input=half.peak, kept=held,
        weight=rest.peak,
    )  # fmt: skip
