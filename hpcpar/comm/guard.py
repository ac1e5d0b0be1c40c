"""What `check=True` does: before a call, the ranks compare what they are about to do.

Before a collective every rank tells every other what it was called with; before a message its two
ends tell each other. Where they do not fit, all of them raise the same `MismatchError`, and nothing
of the call itself has been sent: the communicator can be used on. A call that one rank refuses for
its arguments is told to the others in the same way (`hpcpar.comm.refusals`).
"""

import time
from collections.abc import Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

from mpi4py import MPI

from hpcpar.comm.mismatch import collective_mismatch, message_mismatch
from hpcpar.comm.record import RECORD, Record, agreement, content
from hpcpar.comm.refusals import tell_refusals
from hpcpar.comm.request import Call, Work
from hpcpar.errors import MismatchError

if TYPE_CHECKING:
    from hpcpar.comm.communicator import Communicator

__all__ = ["Guard"]

Line = tuple[MPI.Comm, MPI.Comm, int]  # where to send, where to receive, with which rank


class Guard:
    """The comparison of a communicator's calls, on channels of its own.

    Its comparisons are in the ledger under "guard", their traffic in no other line of it.
    """

    def __init__(self, comm: "Communicator", mpi_comm: MPI.Comm) -> None:
        """Collective over `mpi_comm`, whose ranks are those of `comm`."""
        self._comm = comm
        self._calls = mpi_comm.Dup()
        self._offers, self._wants = mpi_comm.Dup(), mpi_comm.Dup()  # senders', receivers' records
        self._queues: dict[object, list[Call]] = {}
        tell_refusals(comm)

    @property
    def channels(self) -> list[MPI.Comm]:
        """What its records go over."""
        return [self._calls, self._offers, self._wants]

    def watch(self, call: Call, operation: Work) -> Work:
        """`operation`, after its comparison."""
        ends: list[dict[str, Any]] = [
            {name: call.facts[name] for name in names if name in call.facts}
            for names in (("dest", "x"), ("source", "out", "returned"))
            if names[0] in call.facts
        ]
        if not ends:
            return self._in_turn("call", call, self._compare_all(call), operation)
        if len(ends) == 1:
            return self._message(call, ends[0], operation)
        # Two messages: the one may have to be over before the other's other end can begin.
        halves = []
        for end in ends:
            half = copy(call)
            halves.append((half, self._message(half, end, self._comm._travel(half, **end))))
        return _both(call, halves)

    def _message(self, call: Call, end: Mapping[str, Any], operation: Work) -> Work:
        """A message of which this rank is one end."""
        peer, sends = end.get("source", end.get("dest")), "dest" in end
        compare = self._compare_two(call, peer, end.get("x", end.get("out")), sends)
        return self._in_turn((sends, peer, call.tag), call, compare, operation)

    def _compare_all(self, call: Call) -> Work:
        """Compare a collective among all ranks."""
        rank, size = self._comm.rank, self._comm.size
        mine = _record(call, agreement(call))
        peers = [(rank + shift) % size for shift in range(1, size)]  # not all to rank 0 at once
        lines = [(self._calls, self._calls, peer) for peer in peers]
        tag = call.number % self._comm._tags  # the tag of closing is not its number's
        theirs = yield from self._exchange(call, mine, lines, tag)
        if mine.failure or all(raw.startswith(mine.prefix) for raw in theirs):
            return
        records = {peer: Record.unpack(raw) for peer, raw in zip(peers, theirs, strict=True)}
        records[rank] = mine
        raise MismatchError(collective_mismatch(call.number, [records[r] for r in range(size)]))

    def _compare_two(self, call: Call, peer: int, array: Any, sends: bool) -> Work:
        """Compare a message between its two ends."""
        mine = _record(call, call.name if array is None else content(array))
        out, back = (self._offers, self._wants) if sends else (self._wants, self._offers)
        (raw,) = yield from self._exchange(call, mine, [(out, back, peer)], call.tag)
        if mine.failure or raw.startswith(mine.prefix):
            return
        here, there = (self._comm.rank, mine), (peer, Record.unpack(raw))
        sender, receiver = (here, there) if sends else (there, here)
        raise MismatchError(message_mismatch(call.tag, *sender, *receiver))

    def _exchange(self, call: Call, mine: Record, lines: Sequence[Line], tag: int) -> Work:
        """Send a record along each line; the records that come back, in the same order."""
        start = time.perf_counter()
        raw = mine.pack()
        theirs = [bytearray(RECORD) for _ in lines]
        arriving = [
            (peer, back.Irecv((land, MPI.BYTE), peer, tag))
            for land, (_, back, peer) in zip(theirs, lines, strict=True)
        ]
        leaving = [(peer, out.Isend((raw, MPI.BYTE), peer, tag)) for out, _, peer in lines]
        call.pending = lambda: [peer for peer, request in arriving if not request.Test()]
        for _, request in arriving + leaving:
            while not request.Test():
                yield
            call.finished += 1
        sent, seconds = len(lines), time.perf_counter() - start
        self._comm.ledger.add("guard", sent, sent * len(raw), seconds)
        return theirs

    def _in_turn(self, key: object, call: Call, compare: Work, operation: Work) -> Work:
        """`operation` after `compare`, and begun after all that came before it with this key.

        Comparisons may end in any order; but messages of one tag are matched in the order in which
        they are begun, and so are MPI's own collectives.
        """
        queue = self._queues.setdefault(key, [])
        queue.append(call)
        try:
            yield from compare
            while queue[0] is not call:
                yield
            try:
                next(operation)
            except StopIteration as end:
                return end.value
        finally:
            queue.remove(call)
            if not queue:
                del self._queues[key]
        yield
        return (yield from operation)


def _record(call: Call, agreed: str) -> Record:
    file, line = call.where
    return Record(agreed, f"{file}:{line}", str(call.facts.get("failure", "")))


def _both(call: Call, halves: Sequence[tuple[Call, Work]]) -> Work:
    """A sendrecv: two messages at the same time. Where one fails, the other is ended first."""
    call.pending = lambda: [peer for half, _ in halves for peer in half.pending()]
    under_way, result, error = list(halves), None, None
    while under_way:
        for half, work in tuple(under_way):
            try:
                next(work)
            except StopIteration as end:
                under_way.remove((half, work))
                result = result if end.value is None else end.value
            except MismatchError as found:
                under_way.remove((half, work))
                error = error or found
        call.finished = sum(half.finished for half, _ in halves)
        if under_way:
            yield
    if error is not None:
        raise error
    call.messages = sum(half.messages for half, _ in halves)
    call.bytes = sum(half.bytes for half, _ in halves)
    return result
