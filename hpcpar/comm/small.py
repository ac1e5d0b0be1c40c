"""The short way for small allreduces, where Python costs more than the network.

It does what a request for the schedule `one_shot_allreduce` does, with the same messages on the
wire, so that a rank may take this way while another takes the long one; but everything that can be
made once for a shape, a dtype and an operation is made once.
"""

from collections.abc import Callable, Sequence
from functools import partial
from sys import _getframe
from time import perf_counter
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from mpi4py import MPI

from hpcpar.comm.arguments import UFUNCS, overlap
from hpcpar.comm.engine import Engine
from hpcpar.comm.flight import Flight
from hpcpar.comm.ledger import Ledger
from hpcpar.comm.perform import divide
from hpcpar.comm.request import Numbers
from hpcpar.comm.transports.mpi import mismatch
from hpcpar.schedule.one_shot import tree_over_ranks

if TYPE_CHECKING:
    from hpcpar.comm.core import Core

__all__ = ["SMALL_BYTES", "SmallAllreduce", "SmallSwap", "is_small"]

Test = Callable[..., bool]  # of a message under way: whether it is over

SMALL_BYTES = 4096
_SMALL_RANKS = 8  # every rank sends to every other
_BYTE = MPI.BYTE
_PLANS = 256  # remembered
_EAGER = 1024  # bytes that every MPI library sends off without waiting for the receiver
_SPINS = 1000  # tests of a request before the clock is looked at


def is_small(size: int, ranks: int) -> bool:
    """Whether an allreduce of so many bytes goes in one shot, by the short way or the long."""
    return size <= SMALL_BYTES and 1 < ranks <= _SMALL_RANKS


class _Plan:
    """What does not change from call to call."""

    __slots__ = (
        "additions",
        "bytes",
        "calls",
        "landing",
        "last",
        "mean",
        "peers",
        "receives",
        "seconds",
        "ufunc",
    )

    def __init__(self, rank: int, ranks: int, like: np.ndarray, op: str) -> None:
        self.bytes = like.nbytes
        self.calls, self.seconds = 0, 0.0  # that the ledger does not know of yet
        self.landing: list[Any] = [np.empty_like(like) for _ in range(ranks)]  # from each rank
        self.peers = [(rank + shift) % ranks for shift in range(1, ranks)]
        self.receives = [((self.landing[peer], self.bytes, _BYTE), peer) for peer in self.peers]
        self.ufunc: Callable[..., object] = getattr(np, UFUNCS[op])
        if self.ufunc is not np.add:  # which alone takes its output by position
            self.ufunc = partial(_by_name, self.ufunc)
        self.mean = op == "mean"
        # left, right, where their sum stands, and whose memory it takes: not the caller's
        *inner, (_, _, self.last) = tree_over_ranks(ranks)  # the last addition goes to the result
        self.additions = [
            (left, right, into, right if left == rank else left) for into, left, right in inner
        ]


class SmallAllreduce:
    """`Communicator.allreduce` of small host arrays, blocking."""

    def __init__(
        self, core: "Core", engine: Engine, channel: MPI.Comm, numbers: Numbers, flight: Flight
    ) -> None:
        self._core, self._engine, self._channel, self._numbers = core, engine, channel, numbers
        self._active, self._rank = engine.active, core.rank
        self._plans: dict[tuple[np.dtype, tuple[int, ...], str], _Plan] = {}
        self._status = MPI.Status()
        core.ledger.sources.append(self._settle)
        self._recorder, self._slot = flight.recorder, flight.collective
        self._name = flight.recorder.operation("allreduce")

    def learn(self, array: np.ndarray, op: str) -> None:
        """Such arrays have passed all checks: take calls with them from now on."""
        if (array.dtype, array.shape, op) in self._plans:
            return
        if len(self._plans) >= _PLANS:
            self.forget()
        self._plans[array.dtype, array.shape, op] = _Plan(self._rank, self._core.size, array, op)

    def _settle(self, ledger: Ledger) -> None:
        """Enter the calls into the ledger."""
        for plan in self._plans.values():
            messages = plan.calls * len(plan.peers)
            ledger.add("allreduce", messages, messages * plan.bytes, plan.seconds, plan.calls)
            plan.calls, plan.seconds = 0, 0.0

    def forget(self) -> None:
        """Take no more calls like those learned so far."""
        self._settle(self._core.ledger)
        self._plans.clear()

    def allreduce(self, x: np.ndarray, op: str, out: Any) -> np.ndarray | None:
        """The result, or None where this call has to go the long way."""
        plan = self._plans.get((x.dtype, x.shape, op))
        if plan is None or self._active or self._engine.broken or not x.flags.c_contiguous:
            return None
        if out is None:
            out = np.empty(x.shape, x.dtype)
        elif not (out.flags.writeable if out is x else _fits(x, out)):
            return None
        start = perf_counter()
        numbers = self._numbers  # as Numbers.next does
        numbers.last = number = numbers.last + 1
        tag = number % numbers.tags
        started = self._post(plan, x, tag)
        # The books are kept while the messages are on their way.
        recorder = self._recorder
        site = recorder.site(_getframe(2))  # who called Communicator.allreduce
        record = recorder.begin(self._slot, self._name, number, plan.bytes, -1, site)
        plan.calls += 1
        try:
            self._complete(plan, started, number, tag, record)
        except BaseException as error:
            recorder.give_up(record)
            self._engine.keep(error, started, x)
            raise
        recorder.end(record)
        values = plan.landing
        values[self._rank] = x  # which has no place of its own there
        for left, right, into, over in plan.additions:
            values[into] = plan.ufunc(values[left], values[right], values[over])
        plan.ufunc(values[0], values[plan.last], out)
        if plan.mean:
            divide(out, len(values))
        values[self._rank] = None
        plan.seconds += perf_counter() - start
        return out

    def _post(self, plan: _Plan, x: np.ndarray, tag: int) -> Sequence[Test]:
        """Start to receive from everybody, then to send `x` to everybody."""
        channel, spec = self._channel, (x, plan.bytes, _BYTE)
        return [channel.Irecv(land, peer, tag).Test for land, peer in plan.receives] + [
            channel.Isend(spec, peer, tag).Test for peer in plan.peers
        ]

    def _complete(
        self, plan: _Plan, started: Sequence[Test], number: int, tag: int, record: int
    ) -> None:
        """Wait for all; what everybody sent is then in `plan.landing`."""
        status, size = self._status, plan.bytes
        for test, peer in zip(started, plan.peers, strict=False):  # those that arrive
            try:
                if not test(status):
                    self._wait(partial(test, status), peer, number, tag, record)
            except MPI.Exception as error:
                _explain(error, peer, size)
            if status.Get_count(_BYTE) != size:
                raise ValueError(mismatch(peer, f"{status.Get_count(_BYTE)} bytes", size))
        for test, peer in zip(started[len(plan.peers) :], plan.peers, strict=True):
            if not test():
                self._wait(test, peer, number, tag, record)

    def _wait(
        self, done: Callable[[], bool], peer: int, number: int, tag: int, record: int
    ) -> None:
        """Wait as every wait does, with its limit."""
        self._core.wait_for("allreduce", number, tag, peer, done, record)


class SmallSwap(SmallAllreduce):
    """The same for two ranks, without the loops."""

    def _post(self, plan: _Plan, x: np.ndarray, tag: int) -> Sequence[Test]:
        land, peer = plan.receives[0]
        channel = self._channel
        arriving = channel.Irecv(land, peer, tag).Test
        if plan.bytes <= _EAGER:
            channel.Send((x, plan.bytes, _BYTE), peer, tag)
            return arriving, _sent
        return arriving, channel.Isend((x, plan.bytes, _BYTE), peer, tag).Test

    def _complete(
        self, plan: _Plan, started: Sequence[Test], number: int, tag: int, record: int
    ) -> None:
        (arriving, leaving), status, spins = started, self._status, 0
        try:
            while not arriving(status):
                spins += 1
                if spins > _SPINS:
                    self._wait(partial(arriving, status), plan.peers[0], number, tag, record)
                    break
        except MPI.Exception as error:
            _explain(error, plan.peers[0], plan.bytes)
        if status.Get_count(_BYTE) != plan.bytes:
            got = f"{status.Get_count(_BYTE)} bytes"
            raise ValueError(mismatch(plan.peers[0], got, plan.bytes))
        if leaving is not _sent and not leaving():
            self._wait(leaving, plan.peers[0], number, tag, record)


def _by_name(ufunc: np.ufunc, left: np.ndarray, right: np.ndarray, out: np.ndarray) -> np.ndarray:
    return ufunc(left, right, out=out)


def _sent() -> bool:
    return True


def _explain(error: MPI.Exception, peer: int, size: int) -> NoReturn:
    """Say what a message that was too long means."""
    if error.Get_error_class() != MPI.ERR_TRUNCATE:
        raise error
    raise ValueError(mismatch(peer, "more", size)) from None


def _fits(x: np.ndarray, out: Any) -> bool:
    """Whether the result of adding `x` can go to `out`, memory apart from `x`."""
    return (
        type(out) is np.ndarray
        and out.shape == x.shape
        and (out.dtype is x.dtype or out.dtype == x.dtype)
        and out.flags.carray
        and ((x.base is None and out.base is None) or not overlap("allreduce", x, out))
    )
