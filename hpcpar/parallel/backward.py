"""Where backward puts its gradients: into leaves, bucket by bucket."""

from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from hpcpar.device import Array
from hpcpar.nn.model import Tensors
from hpcpar.parallel.context import start_context_sum
from hpcpar.parallel.gradients import Exchanges, GradientSum
from hpcpar.parallel.holdings import Holdings, views
from hpcpar.parallel.leaves import Slot
from hpcpar.parallel.witness import Witness

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["Gradients"]

Written = dict[int, Array]  # by bucket


class Gradients:
    """The leaves that are being computed, and what becomes of them.

    The first micro-batch of a leaf writes its gradient where the leaf is, the next ones beside it,
    and they are added at once, layer by layer. When a round is over for a layer its sum starts,
    while backward goes on in the layers before.

    Args:
        context: ranks that each have a part of every micro-batch's gradient, which is summed over
            them before it goes into its leaf; None where it is whole, or summed at the end.
    """

    def __init__(
        self,
        holdings: Holdings,
        xp: ModuleType,
        context: "Communicator | None" = None,
    ) -> None:
        self._holdings, self._xp, self._context = holdings, xp, context
        self._sums: Sequence[GradientSum] = ()
        self._witness: Witness | None = None
        self._exchanges = Exchanges()  # over the context
        self._leaves: Written = {}  # a stage has one leaf at a time
        self._target: Written = {}
        self._spare: Array = xp.empty(0, np.float32)
        self._last: Slot | None = None

    @property
    def bytes(self) -> int:
        """Of the room beside the leaves."""
        return int(self._spare.nbytes)

    def begin(
        self, slots: Sequence[Slot], sums: Sequence[GradientSum], witness: Witness | None = None
    ) -> None:
        """A step of these slots, whose leaves go into `sums`; a witness sees its leaf before."""
        self._last, self._sums, self._witness = slots[-1], sums, witness
        for total in sums:
            total.begin()

    def target(self, slot: Slot, layer: int) -> Tensors:
        """Views to write the gradient of a layer's parameters into."""
        numbers = self._holdings.gradients_of[layer]
        if slot.first:
            self._target = {number: self._sums[number].buffer(slot.leaf) for number in numbers}
        else:
            self._target = self._beside(numbers)
        found: Tensors = {}
        for number, array in self._target.items():
            found |= views(self._holdings.buckets[number], array)
        return found

    def written(self, slot: Slot, layer: int) -> None:
        """The gradient of a layer is there."""
        written, self._target = self._target, {}
        if self._context is None:
            self._put(slot, layer, written)
        else:
            self._exchanges.start(partial(self._sum, self._context, slot, layer, written))

    def passed(self, slot: Slot, layer: int) -> None:
        """A gap, in which the end of a round may come."""
        self._exchanges.settle()
        self._end(slot, layer)

    def finish(self) -> None:
        """All gradients of a step are written: let them arrive in their leaves."""
        self._exchanges.settle()

    def _sum(
        self, context: "Communicator", slot: Slot, layer: int, written: Written
    ) -> Callable[[], None]:
        """Begin to add up what the context-parallel ranks have; what is returned ends it."""
        requests = [start_context_sum(context, array) for array in written.values()]

        def settle() -> None:
            for request in requests:
                request.wait()
            self._put(slot, layer, written)

        return settle

    def _put(self, slot: Slot, layer: int, written: Written) -> None:
        """Into the leaf."""
        for number, array in written.items():
            if slot.first:
                self._leaves[number] = array
            else:
                self._xp.add(self._leaves[number], array, out=self._leaves[number])
                if self._context is not None:
                    self._sums[number].arena.give(array)
            if slot.last:
                leaf = self._leaves.pop(number)
                if self._witness is not None and self._witness.leaf == slot.leaf:
                    self._witness.gradient(number, leaf)
                self._sums[number].add(slot.leaf, leaf)
        self._end(slot, layer)

    def _end(self, slot: Slot, layer: int) -> None:
        if slot.ends:
            for number in reversed(self._holdings.gradients_of[layer]):
                self._sums[number].end_round(slot is self._last)

    def _beside(self, numbers: Sequence[int]) -> Written:
        """Room for one layer's gradient: the same for all, where they do not wait for sums."""
        sizes = [self._holdings.buckets[number].size for number in numbers]
        if self._context is not None:
            return {
                number: self._sums[number].arena.take((size,), np.float32)
                for number, size in zip(numbers, sizes, strict=True)
            }
        if len(self._spare) < sum(sizes):
            self._spare = self._xp.empty(sum(sizes), np.float32)
        ends = np.cumsum(sizes).tolist()
        return {
            number: self._spare[end - size : end]
            for number, size, end in zip(numbers, sizes, ends, strict=True)
        }
