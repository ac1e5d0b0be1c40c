"""Arrays that go round among ranks: each sees every other's, one after the other.

Ring attention (Liu et al., arXiv:2310.01889): what a rank has received it passes on while it
computes with it, so that no rank ever holds more than two arrays of others, and each message has
the time of one computation to arrive.
"""

from collections.abc import Callable, Sequence
from typing import Any

from hpcpar.device import Array
from hpcpar.nn import Arena
from hpcpar.parallel.context import Context

__all__ = ["Returns", "circulate"]

ROUND, BACK = 0, 1  # tags


def circulate(
    context: Context, own: Array, visit: Callable[[int, Array], None], arena: Arena
) -> None:
    """Call visit(rank, array) with every rank's array, this one's first, then of those before it.

    All have one shape. The next array travels while `visit` computes. Collective.
    """
    comm = context.comm
    if comm is None:
        visit(0, own)
        return
    here, owner = own, comm.rank
    for step in range(comm.size):
        requests, coming = [], own
        if step < comm.size - 1:
            coming = arena.take(own.shape, own.dtype)
            requests = [
                comm.irecv(coming, (comm.rank - 1) % comm.size, ROUND),
                comm.isend(here, (comm.rank + 1) % comm.size, ROUND),
            ]
        visit(owner, here)
        with context.timeline.on("communication", "keys and values"):
            for request in requests:
                request.wait()
        if here is not own:
            arena.give(here)
        here, owner = coming, (owner - 1) % comm.size


class Returns:
    """Arrays that go straight back to the ranks whose array `circulate` has brought.

    Each visit ends with `send`. When this rank sends to the one it has visited, another sends to
    this one: the one that has just been here.

    Args:
        shape, dtype: of each array.
        sent: sent(rank, owner): one item for each array that `rank` sends to `owner`.
        landed: called with the rank and the arrays that came from there.
    """

    def __init__(
        self,
        context: Context,
        shape: tuple[int, ...],
        dtype: Any,
        sent: Callable[[int, int], Sequence[object]],
        landed: Callable[[int, Sequence[Array]], None],
        arena: Arena,
    ) -> None:
        self._context, self._shape, self._dtype = context, shape, dtype
        self._sent, self._landed, self._arena = sent, landed, arena
        self._settle: Callable[[], None] | None = None

    def send(self, owner: int, arrays: Sequence[Array]) -> None:
        """Start to send arrays of the arena, which then takes them back."""
        comm = self._context.comm
        if comm is None or owner == comm.rank:
            self._landed(owner, arrays)
            return
        self.settle()
        source = (2 * comm.rank - owner) % comm.size
        coming = [self._arena.take(self._shape, self._dtype) for _ in self._sent(source, comm.rank)]
        requests = [comm.irecv(array, source, BACK) for array in coming]
        requests += [comm.isend(array, owner, BACK) for array in arrays]

        def settle() -> None:
            with self._context.timeline.on("communication", "gradients of keys and values"):
                for request in requests:
                    request.wait()
            self._arena.give(list(arrays))
            self._landed(source, coming)

        self._settle = settle

    def settle(self) -> None:
        """Wait for the last ones."""
        if self._settle is not None:
            self._settle()
            self._settle = None
