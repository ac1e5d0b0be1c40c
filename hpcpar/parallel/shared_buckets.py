"""Buckets that all data-parallel ranks of a node can read where they lie.

Sums and gathers of such buckets send nothing (schedule/shared_tree.py).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hpcpar.device import Array
from hpcpar.nn import Arena
from hpcpar.parallel.buckets import Bucket
from hpcpar.schedule.shape import subtrees

if TYPE_CHECKING:
    from hpcpar.comm import Communicator
    from hpcpar.comm.symmetric import Symmetric

__all__ = ["SharedRoots", "most_roots", "shared_buckets", "shared_roots"]

LINE = 16  # elements of a cache line: every bucket begins with one


class SharedRoots:
    """Where a rank's subtotals of a bucket grow, and the others read them.

    There is a room for each root: its first leaf is written there, and the others are added to it.
    Rooms whose root has not begun are lent for other leaves and subtotals, and what does not fit in
    comes from the arena. It lends as an arena does.

    Args:
        memory: as many times the bucket as the most roots that a rank has.
        firsts: the first leaves of this rank's roots.

    Attributes: memory; bytes, of it on this rank.
    """

    def __init__(
        self, memory: "Symmetric", bucket: Bucket, arena: Arena, firsts: Sequence[int]
    ) -> None:
        self.memory, self.bytes = memory, int(memory.local.nbytes)
        self._arena, self._firsts = arena, list(firsts)
        parts = range(0, len(memory.local), bucket.size)
        self._rooms = [memory.local[at : at + bucket.size] for at in parts]
        self._free = list(range(len(parts)))

    def buffer(self, leaf: int) -> Array:
        """Where to write the gradient of a leaf."""
        shape, dtype = self._rooms[0].shape, self._rooms[0].dtype
        if leaf not in self._firsts:
            return self.take(shape, dtype)
        place = self._firsts.index(leaf)
        if place not in self._free:  # a leaf before is still there: `settle` brings this root in
            return self._arena.take(shape, dtype)
        self._free.remove(place)
        return self._rooms[place]

    def take(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array of the bucket's size: the last free room, or one of the arena."""
        return self._rooms[self._free.pop()] if self._free else self._arena.take(shape, dtype)

    def give(self, *arrays: Array) -> None:
        """What was taken."""
        for array in arrays:
            if self._arena.has_lent(array):
                self._arena.give(array)
            else:
                self._free = sorted([*self._free, self._place(array)])

    def settle(self, roots: Sequence[Array]) -> None:
        """The roots, left to right, come to their rooms, which are then free."""
        for place, root in enumerate(roots):
            if root is not self._rooms[place]:
                self._rooms[place][...] = root
        self.give(*roots)

    def _place(self, array: Array) -> int:
        return next(place for place, room in enumerate(self._rooms) if room is array)


def most_roots(runs: Sequence[range], leaves: int) -> int:
    """Of any rank."""
    return max(len(subtrees(run.start, run.stop, leaves)) for run in runs)


def shared_roots(
    comm: "Communicator | None",
    buckets: Sequence[Bucket],
    leaves: int,
    runs: Sequence[range],
    arena: Arena,
) -> list[SharedRoots] | list[None]:
    """For every bucket; Nones where memory cannot be shared. Collective."""
    if comm is None:
        return [None] * len(buckets)
    times, mine = most_roots(runs, leaves), runs[comm.rank]
    memory = shared_buckets(comm, [times * bucket.size for bucket in buckets])
    if memory is None:
        return [None] * len(buckets)
    firsts = [node.leaves(leaves).start for node in subtrees(mine.start, mine.stop, leaves)]
    return [
        SharedRoots(part, bucket, arena, firsts)
        for part, bucket in zip(memory, buckets, strict=True)
    ]


def shared_buckets(comm: "Communicator", sizes: Sequence[int]) -> "list[Symmetric] | None":
    """Flat symmetric arrays of float32 of these sizes, all cut from one. Collective.

    None where the ranks are on several nodes, or cannot reach each other's memory.
    """
    if comm.nodes > 1:
        return None
    ends = [0]
    for size in sizes:
        ends.append(ends[-1] + -(-size // LINE) * LINE)
    try:
        whole = comm.symmetric(ends[-1])
    except MemoryError:  # on all ranks: they send messages instead
        return None
    return [
        whole[start : start + size] for (start, _), size in zip(pairwise(ends), sizes, strict=True)
    ]
