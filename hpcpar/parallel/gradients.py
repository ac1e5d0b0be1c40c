"""The gradient of a bucket, summed over the leaves of all data-parallel ranks by the tree.

`RunSum`: a rank's leaves are a run, its complete subtrees are added as they come, and their roots
are summed with the others' at the end. `RoundSum` (ZeRO 2 and 3): leaves are dealt in rounds, and
after each the ranks exchange slices, so that a rank keeps sums of its own slice only. Both add in
the same order, so the bits are the same.
"""

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from hpcpar.device import Array
from hpcpar.parallel.buckets import Bucket
from hpcpar.schedule.steps import Recv, Send, Span, Step
from hpcpar.schedule.tree import deal, tree_allreduce, tree_reduce_scatter
from hpcpar.tree import Subtotals

if TYPE_CHECKING:
    from types import ModuleType

    from hpcpar.comm import Communicator
    from hpcpar.comm.request import Request

__all__ = ["GradientSum", "RoundSum", "RunSum"]


class GradientSum(ABC):
    """Take a buffer for a leaf, fill it, `add` it; `end_round`; at last `finish`.

    Args:
        comm: the data-parallel ranks; None for one.
        leaves: of the whole sum.

    Attributes: run, the elements of the bucket that `result` holds after `finish`; whole, whether
    every rank gets all of them.
    """

    whole = False

    def __init__(
        self, bucket: Bucket, comm: "Communicator | None", leaves: int, xp: "ModuleType"
    ) -> None:
        self.bucket, self.comm, self.leaves = bucket, comm, leaves
        self.rank, self.size = (comm.rank, comm.size) if comm is not None else (0, 1)
        self.run = bucket.slices[self.rank]
        self.result: Array = xp.empty(0, np.float32)
        self._request: Request | None = None

    @abstractmethod
    def buffer(self) -> Array:
        """An array for the gradient of a leaf, (bucket.size,)."""

    @abstractmethod
    def add(self, leaf: int, gradient: Array) -> None:
        """Add a leaf of this rank, in such a buffer."""

    @abstractmethod
    def end_round(self, last: bool) -> None:
        """Start the sum of what all ranks have added. Collective; the `last` one of a step."""

    @abstractmethod
    def finish(self) -> None:
        """Wait until the sum of all leaves is in `result`."""


class RunSum(GradientSum):
    """Leaves in runs; the sum is the rank's slice, or the whole bucket on all if `whole`."""

    def __init__(
        self,
        bucket: Bucket,
        comm: "Communicator | None",
        leaves: int,
        xp: "ModuleType",
        whole: bool = False,
    ) -> None:
        super().__init__(bucket, comm, leaves, xp)
        runs = tuple(deal(leaves, self.size))
        self._mine = runs[self.rank]
        self.whole = whole or comm is None
        if self.whole:
            self.run = range(bucket.size)
        self.result = xp.empty(len(self.run), np.float32)
        self._sums = Subtotals(leaves, xp.empty(bucket.size, np.float32))
        self._roots: list[Array] = []
        self._steps: tuple[Step, ...] = ()
        if comm is not None and whole:
            self._steps = tuple(
                tree_allreduce(self.rank, self.size, bucket.size, runs, leaves, nodes=comm.node_map)
            )
        elif comm is not None:
            self._steps = tree_reduce_scatter(self.rank, bucket.slices, runs, leaves)

    def buffer(self) -> Array:
        return self._sums.buffer()

    def add(self, leaf: int, gradient: Array) -> None:
        self._sums.add(leaf, gradient)

    def end_round(self, last: bool) -> None:
        self._roots = self._sums.take(self._mine)
        if self.comm is None:
            return
        buffers = {f"root{i}": root for i, root in enumerate(self._roots)} | {"out": self.result}
        self._request = self.comm.irun(self._steps, buffers, name="reduce_gradients")

    def finish(self) -> None:
        if self._request is not None:
            self._request.wait()
            self._request = None
            self._sums.free(*self._roots)
        else:  # of one rank: the root is the sum
            self._sums.free(self.result)
            (self.result,) = self._roots
        self._roots = []


class RoundSum(GradientSum):
    """Leaf m is rank m mod P's; each round's slices are exchanged while the next one computes."""

    def __init__(self, bucket: Bucket, comm: "Communicator", leaves: int, xp: "ModuleType") -> None:
        super().__init__(bucket, comm, leaves, xp)
        self._sums = Subtotals(leaves, xp.empty(len(self.run), np.float32))
        self.result = self._sums.buffer()
        self._xp = xp
        self._free: list[Array] = []
        self._leaf: Array | None = None
        self._round = 0
        self._travelling: tuple[Array | None, dict[int, Array]] = (None, {})

    def buffer(self) -> Array:
        if self._free:
            return self._free.pop()
        return self._xp.empty(self.bucket.size, np.float32)

    def add(self, leaf: int, gradient: Array) -> None:
        self._leaf = gradient

    def end_round(self, last: bool) -> None:
        self._settle()
        first = self._round * self.size
        owners = range(min(self.size, self.leaves - first))  # the ranks that have a leaf
        slices = {first + owner: self._sums.buffer() for owner in owners}
        buffers = {f"in{leaf - first}": array for leaf, array in slices.items()}
        if self._leaf is not None:
            slices[first + self.rank][...] = self._leaf[self.run.start : self.run.stop]
            buffers["x"] = self._leaf
        assert self.comm is not None
        steps = self._steps(len(owners))
        self._request = self.comm.irun(steps, buffers, name="reduce_gradients")
        self._travelling, self._leaf = (self._leaf, slices), None
        self._round = 0 if last else self._round + 1

    def finish(self) -> None:
        self._settle()
        self._sums.free(self.result)
        (self.result,) = self._sums.take(range(self.leaves))

    def _settle(self) -> None:
        """Wait for the slices that are under way, and add them up in the order of the leaves."""
        if self._request is None:
            return
        self._request.wait()
        self._request = None
        leaf, slices = self._travelling
        for number in sorted(slices):
            self._sums.add(number, slices[number])
        if leaf is not None:
            self._free.append(leaf)
        self._travelling = (None, {})

    def _steps(self, owners: int) -> tuple[Step, ...]:
        """Every owner of a leaf sends each rank that one's slice."""
        return _exchange(self.rank, self.bucket.slices, owners)


@lru_cache(maxsize=512)
def _exchange(rank: int, slices: tuple[range, ...], owners: int) -> tuple[Step, ...]:
    size, count = len(slices), len(slices[rank])
    steps: list[Step] = []
    for shift in range(1, size):
        source, to = (rank - shift) % size, (rank + shift) % size
        if source < owners and count:
            steps.append(Recv(source, Span(f"in{source}", 0, count)))
        if rank < owners and slices[to]:
            steps.append(Send(to, Span("x", slices[to].start, slices[to].stop)))
    return tuple(steps)
