"""Performs a schedule: the reader of `hpcpar.schedule` that really moves data.

First it is compiled (what does not depend on the arrays), then bound to arrays (every step has its
views), then run. What is under way is tested, never waited for: a run yields instead.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcpar.comm.remote import Remote
from hpcpar.comm.request import Call, Work
from hpcpar.comm.transports.mpi import Ticket
from hpcpar.comm.transports.transport import Transport
from hpcpar.device import Array, namespace
from hpcpar.schedule.steps import (
    OWN,
    Combine,
    Copy,
    Meet,
    Recv,
    Send,
    Span,
    Step,
    dependencies,
    extents,
    reads,
    writes,
)

__all__ = ["Bound", "Program", "Programs", "Scratch", "divide", "perform", "wide_dtype"]

SEND, RECV, COMPUTE, MEET = range(4)
KEPT = 8  # scratch arrays that nobody uses
_DISCORD = b"\xff" * 4  # the token of ranks that have heard two
WIDE = "wide"  # the buffer of partial sums that never travel

# kind, step numbers of the transfers to wait for, peer, what is sent, received or done, and bytes
# that cross between ranks by it
Instruction = tuple[int, tuple[int, ...], int, Any, int]
# Of buffers that peers are reached in: every rank's, flat; or, if only copied from or to, remote.
Peers = Mapping[str, Sequence[Array | Remote | None]]


@dataclass(frozen=True, slots=True)
class Program:
    """A schedule with everything worked out that does not depend on the arrays."""

    steps: tuple[tuple[Step, tuple[int, ...]], ...]  # each with the transfers it waits for
    extents: Mapping[str, int]  # elements of each own buffer
    travels: frozenset[str]  # buffers that are sent from, or received into
    shared: frozenset[str]  # buffers of which peers' are touched
    written: frozenset[str]  # those of them that peers write: the same ones on all ranks

    @classmethod
    def compile(cls, steps: Sequence[Step]) -> "Program":
        """Prepare a schedule."""
        return cls(
            tuple(zip(steps, dependencies(steps), strict=True)),
            extents(steps),
            frozenset(step.span.buffer for step in steps if isinstance(step, Send | Recv)),
            frozenset(span.buffer for step in steps for span in _foreign(step)),
            frozenset(span.buffer for step in steps for span in writes(step) if span.rank != OWN),
        )


class Programs:
    """Compiled schedules by identity: those of `hpcpar.schedule` are remembered tuples."""

    def __init__(self, limit: int = 256) -> None:
        self._limit = limit
        self._known: dict[int, tuple[Sequence[Step], Program]] = {}

    def __getitem__(self, steps: Sequence[Step]) -> Program:
        known = self._known.get(id(steps))
        if known is not None:
            return known[1]
        program = Program.compile(steps)
        if isinstance(steps, tuple):  # a list may change
            if len(self._known) >= self._limit:
                del self._known[next(iter(self._known))]
            self._known[id(steps)] = (steps, program)  # holding on to steps keeps its id its own
        return program


class Scratch:
    """Arrays to use again: fresh memory costs a page fault every 4 KiB."""

    def __init__(self) -> None:
        self.bytes = 0  # the most that there was at a time
        self._now = 0
        self._free: list[Array] = []

    def take(self, like: Array, count: int, dtype: np.dtype) -> Array:
        """At least `count` elements of `dtype`, on the device of `like`."""
        fitting = [
            (len(array), i)
            for i, array in enumerate(self._free)
            if len(array) >= count and array.dtype == dtype and type(array) is type(like)
        ]
        if fitting:
            return self._free.pop(min(fitting)[1])
        self._now += count * dtype.itemsize
        self.bytes = max(self.bytes, self._now)
        return namespace(like).empty(count, dtype)

    def give(self, array: Array) -> None:
        """Keep the last few."""
        self._free.append(array)
        if len(self._free) > KEPT:
            self._now -= int(self._free.pop(0).nbytes)


class Bound:
    """A program with its arrays: ready to be performed, as often as the arrays stay."""

    __slots__ = ("borrowed", "instructions", "program", "token")

    def __init__(
        self,
        program: Program,
        buffers: Mapping[str, Array],
        op: str,
        transport: Transport,
        scratch: Scratch,
        peers: Peers | None = None,
        places: Sequence[str] = (),
    ) -> None:
        """`buffers` are flat, of one dtype; those that are missing are scratch.

        `op` is the name of a ufunc. Sums of 16-bit floating-point numbers are added in float32.
        `places` says which memory the ranks share: where they meet, all have to say the same.
        """
        like = next(iter(buffers.values()))
        wide = wide_dtype(like.dtype)
        self.program, self.token = program, bytes(4)
        if places:
            agreed = op, like.dtype.name, sorted(program.written), places
            self.token = zlib.crc32(repr(agreed).encode()).to_bytes(4)
        self.borrowed = {
            name: scratch.take(like, count, wide if name == WIDE else like.dtype)
            for name, count in program.extents.items()
            if name not in buffers
        }
        arrays = {**buffers, **self.borrowed}
        wires = {name: transport.wire(arrays[name]) for name in program.travels}
        item = like.dtype.itemsize
        combine = getattr(namespace(like), op)
        if wide != like.dtype:
            combine = partial(combine, dtype=wide, casting="same_kind")

        def view(span: Span) -> Any:
            array = arrays[span.buffer]
            if span.rank != OWN:
                assert peers is not None
                array = peers[span.buffer][span.rank]
                assert array is not None  # on another node: no schedule says so
                if isinstance(array, Remote):
                    return array
            return array[span.start : span.stop]

        def content(span: Span) -> Any:
            return wires[span.buffer][span.start * item : span.stop * item]

        self.instructions: list[Instruction] = []
        what: Instruction
        for step, waits in program.steps:
            moved = item * sum(map(len, _foreign(step)))
            match step:
                case Send(to, span):
                    what = SEND, waits, to, content(span), len(span) * item
                case Recv(peer, span):
                    what = RECV, waits, peer, content(span), 0
                case Combine(into, left, right):
                    work = partial(combine, view(left), view(right), out=view(into))
                    what = COMPUTE, waits, OWN, work, moved
                case Copy(into, source):
                    work = partial(_copy, view(into), view(source))
                    if isinstance(other := view(source), Remote):
                        work = partial(other.read, source.start * item, view(into))
                    elif isinstance(other := view(into), Remote):
                        work = partial(other.write, into.start * item, view(source))
                    what = COMPUTE, waits, OWN, work, moved
                case Meet():
                    what = MEET, waits, OWN, None, 0
            self.instructions.append(what)

    def release(self, scratch: Scratch) -> None:
        """Give the scratch memory back; the binding is of no use afterwards."""
        for array in self.borrowed.values():
            scratch.give(array)


def perform(
    call: Call,
    bound: Bound,
    transport: Transport,
    channel: MPI.Comm,
    finish: Callable[[], object] | None = None,
) -> Work:
    """Run a bound program; yields whenever a transfer, or a peer, has to be waited for.

    `finish` is arithmetic to be done at the end.
    """
    tickets: dict[int, tuple[Ticket, int]] = {}
    call.pending = partial(_peers, transport.test, tickets)
    transport.begin(call.ready)
    for number, (kind, waits, peer, content, size) in enumerate(bound.instructions):
        for earlier in waits:
            ticket = tickets[earlier][0]
            while not transport.test(ticket):
                yield
            del tickets[earlier]
            call.finished += 1
        call.bytes += size
        if kind == COMPUTE:
            transport.compute(content)
        elif kind == MEET:
            mark = transport.end()
            while not transport.ended(mark):
                yield
            yield from meet(call, channel, bound.token)
            call.pending = partial(_peers, transport.test, tickets)
        else:
            start = transport.send if kind == SEND else transport.receive
            tickets[number] = start(channel, content, peer, call.tag), peer
            call.messages += kind == SEND
    for number in list(tickets):
        ticket = tickets[number][0]
        while not transport.test(ticket):
            yield
        del tickets[number]
        call.finished += 1
    if finish is not None:
        transport.compute(finish)
    mark = transport.end()
    while not transport.ended(mark):
        yield


def meet(call: Call, channel: MPI.Comm, token: bytes) -> Work:
    """Nobody's ends before everybody's has begun: dissemination (Hensgen, Finkel and Manber 1988).

    That a message has come also means that its sender's writes to shared memory are seen: MPI's
    own shared-memory transport rests on the same order. Raises ValueError on every rank where one
    comes with another token: what was heard is passed on before it is told.
    """
    rank, size = channel.Get_rank(), channel.Get_size()
    landing, stranger, distance = bytearray(len(token)), -1, 1
    while distance < size:
        source, to = (rank - distance) % size, (rank + distance) % size
        arriving = channel.Irecv((landing, MPI.BYTE), source, call.tag)
        said = token if stranger < 0 else _DISCORD
        leaving = channel.Isend((said, MPI.BYTE), to, call.tag)
        call.pending = partial(tuple, (source,))
        while not arriving.Test():
            yield
        while not leaving.Test():
            yield
        call.finished += 1
        call.messages += 1
        if landing != token and stranger < 0:
            stranger = source
        distance *= 2
    if stranger >= 0:
        raise ValueError(
            f"{call}: the ranks' calls do not fit together: op, dtype, or which symmetric arrays, "
            "and which parts of them, are given (Communicator(check=True) says who differs)"
        )


def _foreign(step: Step) -> list[Span]:
    """The spans of other ranks that a step reads or writes."""
    return [span for span in reads(step) + writes(step) if span.rank != OWN]


def wide_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype that sums of `dtype` are added in."""
    narrow = dtype.itemsize == 2 and dtype.name in ("float16", "bfloat16")
    return np.dtype(np.float32) if narrow else dtype


def _copy(into: Array, source: Array) -> None:
    into[...] = source


def _peers(test: Callable[[Ticket], bool], tickets: Mapping[int, tuple[Ticket, int]]) -> list[int]:
    """The other ends of the transfers that are not over."""
    return [peer for ticket, peer in tickets.values() if not test(ticket)]


def divide(array: Array, count: int) -> None:
    """Divide by a number of ranks, in the array's own dtype."""
    namespace(array).divide(array, array.dtype.type(count), out=array)
