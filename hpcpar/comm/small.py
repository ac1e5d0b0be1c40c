"""The short way for small allreduces, where Python costs more than the network.

It does what a request for the schedule `one_shot_allreduce` does, with the same messages on the
wire, so that a rank may take this way while another takes the long one; but everything that can be
made once for a shape, a dtype and an operation is made once.
"""

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from hpcpar.comm.arguments import UFUNCS, overlap
from hpcpar.comm.perform import divide, wide_dtype
from hpcpar.comm.request import Engine, Numbers
from hpcpar.comm.transports.mpi import mismatch
from hpcpar.schedule.one_shot import tree_over_ranks

if TYPE_CHECKING:
    from hpcpar.comm.core import Core

__all__ = ["SMALL_BYTES", "SmallAllreduce", "is_small"]

SMALL_BYTES = 4096
_SMALL_RANKS = 8  # every rank sends to every other
_SPINS = 1000  # tests of a request before the clock is looked at


def is_small(size: int, ranks: int) -> bool:
    """Whether an allreduce of so many bytes goes in one shot, by the short way or the long."""
    return size <= SMALL_BYTES and 1 < ranks <= _SMALL_RANKS


class _Plan:
    """What does not change from call to call."""

    __slots__ = ("additions", "bytes", "landing", "last", "mean", "peers", "receives", "ufunc")

    def __init__(self, rank: int, ranks: int, like: np.ndarray, op: str) -> None:
        self.bytes = like.nbytes
        self.landing = [np.empty_like(like) for _ in range(ranks)]  # what comes from each rank
        self.peers = [(rank + shift) % ranks for shift in range(1, ranks)]
        self.receives = [((self.landing[peer], self.bytes, MPI.BYTE), peer) for peer in self.peers]
        self.ufunc = getattr(np, UFUNCS[op])
        self.mean = op == "mean"
        # left, right, where their sum stands, and whose memory it takes: not the caller's
        *inner, (_, _, self.last) = tree_over_ranks(ranks)  # the last addition goes to the result
        self.additions = [
            (left, right, into, right if left == rank else left) for into, left, right in inner
        ]


class SmallAllreduce:
    """`Communicator.allreduce` of small host arrays, blocking."""

    def __init__(self, core: "Core", engine: Engine, channel: MPI.Comm, numbers: Numbers) -> None:
        self._core, self._engine, self._channel, self._numbers = core, engine, channel, numbers
        self._active = engine.active
        self._plans: dict[tuple[np.dtype, tuple[int, ...], str], _Plan] = {}
        self._status = MPI.Status()
        self._entry = core.ledger.entry("allreduce")

    def learn(self, array: np.ndarray, op: str) -> None:
        """Such arrays have passed all checks: take calls with them from now on."""
        size = self._core.size
        if size == 2 or wide_dtype(array.dtype) == array.dtype:
            self._plans[array.dtype, array.shape, op] = _Plan(self._core.rank, size, array, op)

    def forget(self) -> None:
        """Take no more calls."""
        self._plans.clear()

    def __call__(self, x: np.ndarray, op: str, out: Any) -> np.ndarray | None:
        """The result, or None where this call has to go the long way."""
        plan = self._plans.get((x.dtype, x.shape, op))
        if plan is None or self._active or self._engine.broken or not x.flags.c_contiguous:
            return None
        if out is None:
            out = np.empty(x.shape, x.dtype)
        elif out is not x:
            if type(out) is not np.ndarray or out.shape != x.shape or out.dtype != x.dtype:
                return None
            if not (x.base is None and out.base is None) and overlap("allreduce", x, out):
                return None
        if not out.flags.carray:
            return None
        start = time.perf_counter()
        self._exchange(plan, x)
        values = plan.landing  # the caller's has no place of its own there
        values[self._core.rank] = x
        for first, second, into, over in plan.additions:
            values[into] = plan.ufunc(values[first], values[second], values[over])
        plan.ufunc(values[0], values[plan.last], out)
        if plan.mean:
            divide(out, len(values))
        entry, sent = self._entry, len(plan.peers)
        entry.calls += 1
        entry.messages += sent
        entry.bytes += sent * plan.bytes
        entry.seconds += time.perf_counter() - start
        return out

    def _exchange(self, plan: _Plan, x: np.ndarray) -> None:
        """Send `x` to everybody; what everybody sends is then in `plan.landing`."""
        channel, size, status = self._channel, plan.bytes, self._status
        number, tag = self._numbers.next()
        spec = (x, size, MPI.BYTE)
        arriving, leaving = [], []
        for land, peer in plan.receives:
            arriving.append((channel.Irecv(land, peer, tag).Test, peer))
        for peer in plan.peers:
            leaving.append((channel.Isend(spec, peer, tag).Test, peer))
        try:
            for test, peer in arriving:
                spins = 0
                while not test(status):
                    spins += 1
                    if spins > _SPINS:
                        self._core.wait_for("allreduce", number, tag, peer, partial(test, status))
                        break
                if status.Get_count(MPI.BYTE) != size:
                    got = status.Get_count(MPI.BYTE)
                    raise ValueError(mismatch(peer, f"{got} bytes", size))
            for test, peer in leaving:
                if not test():
                    self._core.wait_for("allreduce", number, tag, peer, test)
        except BaseException as error:
            self._engine.keep(arriving, leaving, plan, x)
            if isinstance(error, MPI.Exception) and error.Get_error_class() == MPI.ERR_TRUNCATE:
                raise ValueError(mismatch(plan.peers[0], "more", size)) from None
            raise
