"""The gradient of a bucket, summed over the leaves of all data-parallel ranks by the tree.

`RunSum`: a rank's leaves are a run, its complete subtrees are added as they come, and their roots
are summed with the others' at the end. `RoundSum` (ZeRO 2 and 3): leaves are dealt in rounds, and
after each the ranks exchange slices, so that a rank keeps sums of its own slice only. Both add in
the same order, so the bits are the same.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np

from hpcpar.device import Array
from hpcpar.nn import Arena
from hpcpar.parallel.buckets import Bucket
from hpcpar.parallel.shared_buckets import SharedRoots
from hpcpar.schedule.shared_tree import shared_tree_sum
from hpcpar.schedule.steps import Recv, Send, Span, Step
from hpcpar.schedule.tree import tree_allreduce_in_place, tree_reduce_scatter
from hpcpar.tree import Subtotals

if TYPE_CHECKING:
    from hpcpar.comm import Communicator
    from hpcpar.comm.request import Request

__all__ = [
    "UNDER_WAY",
    "Exchanges",
    "GradientSum",
    "RoundSum",
    "RunSum",
    "Unsummed",
    "sum_steps",
]

UNDER_WAY = 4  # exchanges of a rank at a time


class GradientSum(ABC):
    """`begin` a step; take a buffer for a leaf, fill it, `add` it; `end_round`; at last `finish`.

    Args:
        comm: the data-parallel ranks; None for one.
        leaves: of the whole sum.
        arena: where leaves, partial sums and the result lie. The sums of all layers share it: what
            is done with is the next layer's.

    Attributes: run, the elements of the bucket that `result` holds after `finish`, until the next
    step begins; whole, whether every rank gets all of them.
    """

    whole = False

    def __init__(
        self, bucket: Bucket, comm: "Communicator | None", leaves: int, arena: Arena
    ) -> None:
        self.bucket, self.comm, self.leaves, self.arena = bucket, comm, leaves, arena
        self.rank, self.size = (comm.rank, comm.size) if comm is not None else (0, 1)
        self.run = bucket.slices[self.rank]
        self._nothing: Array = arena.xp.empty(0, np.float32)
        self.result = self._nothing

    @property
    def shared_bytes(self) -> int:
        """Of arrays beside the arena, which the other ranks can read."""
        return 0

    def begin(self) -> None:
        """Forget the result of the step before."""
        if self.arena.has_lent(self.result):
            self.arena.give(self.result)
        self.result = self._nothing

    @abstractmethod
    def buffer(self, leaf: int) -> Array:
        """An array for the gradient of a leaf of this rank, (bucket.size,)."""

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
    """Leaves in `runs`; the sum is the rank's slice, or the whole bucket on all if `whole`.

    The roots are read by the other ranks where they lie, in `shared` memory, or travel in messages.
    A root that is read must not be written again before all have read it: they meet at the end of
    each sum, and no leaf of the next step is begun before that.
    """

    def __init__(
        self,
        bucket: Bucket,
        comm: "Communicator | None",
        leaves: int,
        arena: Arena,
        runs: Sequence[range],
        whole: bool = False,
        shared: SharedRoots | None = None,
    ) -> None:
        super().__init__(bucket, comm, leaves, arena)
        self._mine, self._shared = runs[self.rank], shared
        self.whole = whole or comm is None
        if self.whole:
            self.run = range(bucket.size)
        like = arena.xp.empty(bucket.size, np.float32)
        self._sums = Subtotals(leaves, like, arena if shared is None else shared)
        self._roots: list[Array] = []
        self._steps: tuple[Step, ...] = ()
        self._request: Request | None = None
        if shared is not None:
            self._steps = shared_tree_sum(self.rank, bucket.slices, tuple(runs), leaves, whole)
        elif comm is not None:
            self._steps = sum_steps(bucket, self.rank, leaves, tuple(runs), whole, comm.node_map)

    @property
    def shared_bytes(self) -> int:
        return self._shared.bytes if self._shared is not None else 0

    def buffer(self, leaf: int) -> Array:
        return self._sums.buffer() if self._shared is None else self._shared.buffer(leaf)

    def add(self, leaf: int, gradient: Array) -> None:
        self._sums.add(leaf, gradient)

    def end_round(self, last: bool) -> None:
        roots = self._sums.take(self._mine)
        if self.comm is None:  # the root is the sum
            (self.result,) = roots
            return
        if self._shared is not None:  # in the first root's place
            self._shared.settle(roots)
            memory = self._shared.memory
            self.result = memory.local[self.run.start : self.run.stop]
            self._request = self.comm.irun(self._steps, {"roots": memory}, name="reduce_gradients")
            return
        buffers = {f"root{i}": root for i, root in enumerate(roots)}
        if self.whole and roots:  # in the first root's place
            self.result = buffers["out"] = roots[0]
            del buffers["root0"]
        else:
            self.result = buffers["out"] = self.arena.take((len(self.run),), np.float32)
        self._roots = [root for root in roots if root is not self.result]
        self._request = self.comm.irun(self._steps, buffers, name="reduce_gradients")

    def finish(self) -> None:
        if self._request is not None:
            self._request.wait()
            self._request = None
            self._sums.free(*self._roots)
        self._roots = []


def sum_steps(
    bucket: Bucket,
    rank: int,
    leaves: int,
    runs: tuple[range, ...],
    whole: bool,
    nodes: tuple[int, ...] | None,
) -> tuple[Step, ...]:
    """How the roots of all ranks are summed, by messages.

    They are "root0", "root1", ...; a whole sum, in "out", takes the place of the first.
    """
    if not whole:
        return tree_reduce_scatter(rank, bucket.slices, runs, leaves)
    return tree_allreduce_in_place(rank, bucket.size, runs, leaves, nodes)


class Exchanges:
    """Those under way on this rank: a few at most, for each has a leaf and slices of all others.

    All ranks start them in one order, and each waits for those that it started before: never in a
    circle.
    """

    def __init__(self) -> None:
        self._settle: deque[Callable[[], None]] = deque()

    def start(self, begin: Callable[[], Callable[[], None]]) -> None:
        """Begin one, when there are few enough; what `begin` returns waits for its end."""
        self.settle(UNDER_WAY - 1)
        self._settle.append(begin())

    def settle(self, left: int = 0) -> None:
        """Wait until only so many are under way."""
        while len(self._settle) > left:
            self._settle.popleft()()


class RoundSum(GradientSum):
    """Leaf m is rank m mod P's; each round's slices are exchanged while the next layers compute."""

    def __init__(
        self,
        bucket: Bucket,
        comm: "Communicator",
        leaves: int,
        arena: Arena,
        exchanges: Exchanges,
    ) -> None:
        super().__init__(bucket, comm, leaves, arena)
        self._sums = Subtotals(leaves, arena.xp.empty(len(self.run), np.float32), arena)
        self._exchanges = exchanges
        self._leaf: Array | None = None
        self._round = 0

    def buffer(self, leaf: int) -> Array:
        return self.arena.take((self.bucket.size,), np.float32)

    def add(self, leaf: int, gradient: Array) -> None:
        self._leaf = gradient

    def end_round(self, last: bool) -> None:
        self._exchanges.start(self._exchange)
        self._round = 0 if last else self._round + 1

    def finish(self) -> None:
        self._exchanges.settle()
        (self.result,) = self._sums.take(range(self.leaves))

    def _exchange(self) -> Callable[[], None]:
        """Every owner of a leaf sends each rank that one's slice."""
        first = self._round * self.size
        owners = range(min(self.size, self.leaves - first))  # the ranks that have a leaf
        slices = {first + owner: self._sums.buffer() for owner in owners}
        buffers = {f"in{leaf - first}": array for leaf, array in slices.items()}
        leaf, self._leaf = self._leaf, None
        if leaf is not None:
            slices[first + self.rank][...] = leaf[self.run.start : self.run.stop]
            buffers["x"] = leaf
        assert self.comm is not None
        steps = _exchange(self.rank, self.bucket.slices, len(owners))
        request = self.comm.irun(steps, buffers, name="reduce_gradients")
        return partial(self._settle, request, leaf, slices)

    def _settle(self, request: "Request", leaf: Array | None, slices: dict[int, Array]) -> None:
        """Wait for the slices, and add them up in the order of the leaves."""
        request.wait()
        for number in sorted(slices):
            self._sums.add(number, slices[number])
        if leaf is not None:
            self.arena.give(leaf)


class Unsummed(GradientSum):
    """For a leaf that goes into no sum: its buffers come from a sum's arena, and go back to it."""

    def __init__(self, total: GradientSum) -> None:
        super().__init__(total.bucket, total.comm, total.leaves, total.arena)

    def buffer(self, leaf: int) -> Array:
        return self.arena.take((self.bucket.size,), np.float32)

    def add(self, leaf: int, gradient: Array) -> None:
        self.arena.give(gradient)

    def end_round(self, last: bool) -> None:
        """There are no rounds."""

    def finish(self) -> None:
        """There is no result."""


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
