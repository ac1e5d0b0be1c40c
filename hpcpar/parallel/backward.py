"""Where backward puts its gradients: into leaves, bucket by bucket."""

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from hpcpar.device import Array
from hpcpar.nn.model import Tensors
from hpcpar.parallel.gradients import GradientSum
from hpcpar.parallel.holdings import Holdings, views
from hpcpar.parallel.leaves import Slot

__all__ = ["Gradients"]


class Gradients:
    """The leaves that are being computed, and what becomes of them.

    The first micro-batch of a leaf writes its gradient where the leaf is, the next ones beside it,
    and they are added at once, layer by layer. When a round is over for a layer its sum starts,
    while backward goes on in the layers before.
    """

    def __init__(self, holdings: Holdings, sums: Sequence[GradientSum], xp: ModuleType) -> None:
        self._holdings, self._sums, self._xp = holdings, sums, xp
        self._leaves: dict[int, Array] = {}  # by bucket: a stage has one leaf at a time
        self._spare: Array = xp.empty(0, np.float32)
        self._views: dict[tuple[int, int], tuple[Array, Tensors]] = {}
        self._last: Slot | None = None

    def begin(self, slots: Sequence[Slot]) -> None:
        """A step of these slots."""
        self._last = slots[-1]

    def target(self, slot: Slot, layer: int) -> Tensors:
        """Views to write the gradient of a layer's parameters into."""
        found: Tensors = {}
        at = 0
        for number in self._holdings.gradients_of[layer]:
            size = self._holdings.buckets[number].size
            if slot.first:
                self._leaves[number] = self._sums[number].buffer()
                array = self._leaves[number]
            else:
                array = self._beside(layer)[at : at + size]
            found |= self._named(number, array)
            at += size
        return found

    def written(self, slot: Slot, layer: int) -> None:
        """The gradient of a layer is there."""
        at = 0
        for number in self._holdings.gradients_of[layer]:
            size = self._holdings.buckets[number].size
            if not slot.first:
                leaf = self._leaves[number]
                self._xp.add(leaf, self._spare[at : at + size], out=leaf)
            if slot.last:
                self._sums[number].add(slot.leaf, self._leaves.pop(number))
            at += size
        self.passed(slot, layer)

    def passed(self, slot: Slot, layer: int) -> None:
        """A gap, or a gradient that is there: the end of a round may have come."""
        if slot.ends:
            for number in reversed(self._holdings.gradients_of[layer]):
                self._sums[number].end_round(slot is self._last)

    def _beside(self, layer: int) -> Array:
        """Room for one layer's gradient."""
        size = sum(self._holdings.buckets[i].size for i in self._holdings.gradients_of[layer])
        if len(self._spare) < size:
            self._spare = self._xp.empty(size, np.float32)
            self._views.clear()
        return self._spare

    def _named(self, number: int, array: Array) -> Tensors:
        """The views of a bucket's array, made once."""
        key = number, array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr
        known = self._views.get(key)
        if known is None:
            known = self._views[key] = array, views(self._holdings.buckets[number], array)
        return known[1]
