"""GPU arrays by NCCL, through nccl4py: the same schedules, so the same bits (NCCL manual, "P2P").

Consecutive transfers of a schedule are one group: the calls of a group go on independently of each
other, groups one after the other, on a stream of the communicator's own. What a group sends is made
before it starts, and arithmetic waits for the groups whose receives were tested: all by events, the
host only fills the streams. NCCL is used without blocking (`blocking=False`), so that a peer that
never comes is a hang with an error, not a call that never returns.

NCCL matches transfers by their order alone: it knows no tags. So operations come to the card in the
order of their calls, one after the other (`in_turn`), and messages, which have tags, go by MPI. And
as a group is over only as a whole, not every correct schedule can go this way: those on one level
can (ring, halving, direct, tree, chain), the hierarchical ones wait in a circle. The tests know.
"""

import os
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

from mpi4py import MPI

from hpcpar.comm.request import Call, Work
from hpcpar.comm.transports.mpi import Ticket
from hpcpar.comm.transports.stream import Event, Gpu
from hpcpar.device import Array
from hpcpar.errors import HangError, UserError

__all__ = ["NcclTransport", "load_nccl"]

_UNIQUE_ID = 128  # bytes


def load_nccl() -> ModuleType:
    """nccl4py's public module. Raises `UserError` where it, or the library, is missing."""
    try:
        import nccl.core

        if nccl.core.get_version().libnccl is None:
            raise ImportError("libnccl.so.2 is not found")
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"backend nccl needs nccl4py ({error}): "
            "pip install 'hpcpar[nccl12]' for CUDA 12, or 'hpcpar[nccl13]' for CUDA 13"
        ) from None
    return nccl.core


class NcclTransport:
    """The transport of a communicator's collectives on CuPy arrays by NCCL.

    Args:
        gpu: this rank's GPU.
        channel: the communicator's ranks; used to set up only.
        nccl: what `load_nccl` gives.
        timeout: seconds that setting up may take.

    Collective. Raises HangError where the ranks do not find each other, and RuntimeError for what
    NCCL says, in its own words.
    """

    def __init__(self, gpu: Gpu, channel: MPI.Comm, nccl: ModuleType, timeout: float) -> None:
        self._gpu, self._nccl, self._timeout = gpu, nccl, timeout
        self._arithmetic, self._wire = gpu.stream(), gpu.stream()
        self._turns: deque[int] = deque()  # numbers of the calls under way, in their order
        self._open: list[_Transfer] = []  # the next group's
        self._waiting: deque[_Group] = deque()  # closed, not started
        self._starting: _Group | None = None  # NCCL is still at it
        self._comm: Any = self._connect(channel)

    def in_turn(self, call: Call, work: Work) -> Work:
        """`work`, when the collectives that were called before it are over."""
        self._turns.append(call.number)
        try:
            while self._turns[0] != call.number:
                yield
            return (yield from work)
        finally:
            self._turns.remove(call.number)

    def wire(self, flat: Any) -> Any:
        """A flat device array as the bytes that `send` and `receive` take spans of."""
        return self._gpu.bytes_of(flat)

    def send(self, channel: MPI.Comm, span: Any, to: int, tag: int) -> Ticket:
        """Start sending, with the transfers that come next."""
        start = partial(self._comm.send, span, to, stream=self._wire.handle)
        return self._add(start, len(span))

    def receive(self, channel: MPI.Comm, span: Any, source: int, tag: int) -> Ticket:
        """Start receiving exactly as many bytes as `span` has."""
        start = partial(self._comm.recv, span, source, stream=self._wire.handle)
        return self._add(start, len(span), sends=False)

    def test(self, ticket: Ticket) -> bool:
        """Whether later arithmetic may use what arrives, or overwrite what is sent."""
        if ticket is None:
            return True
        if ticket.group is None:
            self._close(ticket)
        if ticket.group.done is None:
            self._move()
            if ticket.group.done is None:
                return False
        if not ticket.group.awaited:
            self._arithmetic.wait(ticket.group.done)
            ticket.group.awaited = True
        return True

    def compute(self, work: Callable[[], object]) -> None:
        """Do some arithmetic, after the receives that were tested before."""
        if any(transfer.sends for transfer in self._open):
            self._close()  # what it sends need not wait for this
        self._arithmetic.compute(work)

    def ready(self) -> Ticket:
        """A point after everything so far in the stream of the caller."""
        return self._gpu.caller()

    def begin(self, ready: Ticket = None) -> None:
        """Wait, on the GPU, for whatever makes the arrays of an operation."""
        if ready is not None:
            self._arithmetic.wait(ready)
        self._arithmetic.wait(self._gpu.caller())

    def end(self) -> Ticket:
        """The event after the last step of an operation."""
        return self._arithmetic.event()

    def ended(self, ticket: Ticket) -> bool:
        """Whether the GPU has come to it: then any stream may use the results."""
        self._look()
        return bool(ticket.done)

    def allreduce(
        self,
        call: Call,
        source: Array,
        target: Array,
        op: str,
        ready: Ticket = None,
        finish: Callable[[], object] | None = None,
    ) -> Work:
        """NCCL's own ncclAllReduce, in its own order of sums.

        Args:
            call: as the runner's.
            source: any shape, of the same dtype and size on all ranks.
            target: gets the result; may be `source`.
            op: sum, max or min.
            ready: as for `begin`.
            finish: arithmetic on the result.

        Raises TypeError for a dtype that NCCL has no sums of.
        """
        reduction = getattr(self._nccl, {"sum": "SUM", "max": "MAX", "min": "MIN"}[op])
        kind = source.dtype
        try:
            self._nccl.NcclDataType.from_numpy_dtype(kind)
        except self._nccl.NcclInvalid:
            raise TypeError(f"allreduce: NCCL cannot reduce dtype {kind}; take auto") from None
        self.begin(ready)
        if source.size:
            stream = self._wire.handle
            start = partial(self._comm.allreduce, source, target, reduction, stream=stream)
            ticket = self._add(start, source.size)
            while not self.test(ticket):
                yield
            call.finished += 1
        if finish is not None:
            self.compute(finish)
        mark = self.end()
        while not self.ended(mark):
            yield

    def close(self) -> None:
        """Free NCCL's communicator, when all operations are over. Collective."""
        if self._comm is not None:
            self._comm.destroy()
            self._comm = None

    def abort(self) -> None:
        """End what NCCL still does on the card, after a hang; no other rank is asked."""
        if self._comm is not None:
            self._comm.abort()
            self._comm = None

    def _add(self, start: Callable[[], object], size: int, sends: bool = True) -> Ticket:
        if not size:  # NCCL moves nothing for nothing, and so neither side asks it to
            return None
        transfer = _Transfer(start, sends)
        self._open.append(transfer)
        return transfer

    def _close(self, wanted: "_Transfer | None" = None) -> None:
        """The open group is whole: it starts after the arithmetic so far.

        Receives after its last send may be answers to a send that waits for `wanted`: those are for
        the next group. (So it is in a ring: what one passes on is what has come.)
        """
        group, rest = self._open, list[_Transfer]()
        if wanted is not None and any(t.sends for t in group[group.index(wanted) :]):
            while not group[-1].sends:
                rest.insert(0, group.pop())
        self._open = rest
        ready = _Group(self._arithmetic.event(), [transfer.start for transfer in group])
        for transfer in group:
            transfer.group = ready
        self._waiting.append(ready)
        self._move()

    def _move(self) -> None:
        """Start the groups that can start. NCCL takes the next when it is through with the last."""
        self._look()
        while self._waiting and self._starting is None:
            group = self._starting = self._waiting.popleft()
            self._wire.wait(group.ready)
            with self._nccl.group():
                for start in group.starts:
                    start()
            group.starts.clear()
            self._look()

    def _look(self) -> None:
        """Raise what went wrong in NCCL; note the end of a group that it has started."""
        if self._in_progress(self._comm):
            return
        if self._starting is not None:
            self._starting.done = self._wire.event()
            self._starting = None

    def _in_progress(self, comm: Any) -> bool:
        state = int(comm.get_async_error())
        if state not in (0, _IN_PROGRESS):
            words = self._nccl.get_error_string(state)
            raise RuntimeError(f"NCCL: {words} (NCCL_DEBUG=INFO tells more)")
        return state == _IN_PROGRESS

    def _connect(self, channel: MPI.Comm) -> Any:
        """NCCL's communicator of the same ranks."""
        # The cards, and the id of the new communicator or why there is none: before NCCL starts,
        # so that all ranks know of a problem, and pickled, for it happens once.
        card, key, problem = self._gpu.card(), b"", ""
        if channel.Get_rank() == 0:
            try:
                key = bytes(self._nccl.get_unique_id())
            except Exception as error:  # nccl4py's error class is no part of its public module
                problem = str(error)
        cards = channel.allgather(card)
        key, problem = channel.bcast((key, problem))
        if problem:
            raise RuntimeError(f"NCCL cannot start: {problem} (NCCL_DEBUG=INFO tells more)")
        if len(set(cards)) < len(cards):
            # NCCL 2.30 and later let several ranks share a card, when told to, and without the
            # multicast memory of NVLink switches (NVLS), which belongs to a card, not to a rank.
            os.environ.setdefault("NCCL_MULTI_RANK_GPU_ENABLE", "1")
            os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
        comm = self._nccl.Communicator.init(
            channel.Get_size(),
            channel.Get_rank(),
            self._nccl.UniqueId.from_bytes(key),
            self._nccl.NCCLConfig(blocking=False),
        )
        limit = time.monotonic() + self._timeout
        while self._in_progress(comm):
            if time.monotonic() > limit:
                comm.abort()
                raise HangError(f"NCCL did not connect the ranks in {self._timeout:g} s")
            time.sleep(1e-3)
        return comm


_IN_PROGRESS = 7  # ncclInProgress


class _Transfer:
    __slots__ = ("group", "sends", "start")

    def __init__(self, start: Callable[[], object], sends: bool) -> None:
        self.start, self.sends = start, sends
        self.group: _Group | None = None  # none while the group is open


class _Group:
    """Transfers that NCCL starts together, when the event `ready` has come."""

    __slots__ = ("awaited", "done", "ready", "starts")

    def __init__(self, ready: Event, starts: list[Callable[[], object]]) -> None:
        self.ready, self.starts = ready, starts
        self.done: Event | None = None  # they are over
        self.awaited = False  # by the arithmetic
