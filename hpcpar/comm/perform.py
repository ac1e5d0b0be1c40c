"""Performs a schedule: the reader of `hpcpar.schedule` that really moves data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from mpi4py import MPI

from hpcpar.comm.request import Call, Work
from hpcpar.comm.transports.mpi import HostTransport, Ticket
from hpcpar.comm.transports.staged import StagedTransport
from hpcpar.device import Array, namespace
from hpcpar.schedule.steps import Copy, Recv, Send, Span, Step, dependencies, extents

__all__ = ["Program", "Programs", "Scratch", "divide", "perform"]

SEND, RECV, COMBINE, COPY = range(4)


@dataclass(frozen=True, slots=True)
class Program:
    """A schedule with everything worked out that does not depend on the arrays."""

    # (kind, step numbers of the transfers to wait for, peer, spans)
    instructions: tuple[tuple[int, tuple[int, ...], int, tuple[Span, ...]], ...]
    extents: Mapping[str, int]  # elements of each buffer
    travels: frozenset[str]  # buffers that are sent from, or received into
    messages: int  # sent
    elements: int  # sent

    @classmethod
    def compile(cls, steps: Sequence[Step]) -> "Program":
        """Prepare a schedule."""
        sent = [len(step.span) for step in steps if isinstance(step, Send)]
        code = [
            (*_instruction(step), waits)
            for step, waits in zip(steps, dependencies(steps), strict=True)
        ]
        return cls(
            tuple((kind, waits, peer, spans) for kind, peer, spans, waits in code),
            extents(steps),
            frozenset(step.span.buffer for step in steps if isinstance(step, Send | Recv)),
            len(sent),
            sum(sent),
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
        self._free: list[Array] = []

    def take(self, like: Array, count: int) -> Array:
        """At least `count` elements of the dtype, and the device, of `like`."""
        for i, array in enumerate(self._free):
            fits = len(array) >= count and array.dtype == like.dtype
            if fits and type(array) is type(like):
                return self._free.pop(i)
        return namespace(like).empty(count, like.dtype)

    def give(self, array: Array) -> None:
        """Keep the last few."""
        self._free.append(array)
        del self._free[:-8]


def perform(
    call: Call,
    program: Program,
    buffers: Mapping[str, Array],
    op: str,
    transport: HostTransport | StagedTransport,
    channel: MPI.Comm,
    scratch: Scratch,
    finish: Callable[[], object] | None = None,
) -> Work:
    """Run `program` on flat arrays of one dtype; yields whenever a transfer has to be waited for.

    `op` is the name of a ufunc. Buffers that are not given are scratch. `finish` is arithmetic to
    be done at the end.
    """
    like = next(iter(buffers.values()))
    item, ufunc = like.dtype.itemsize, getattr(namespace(like), op)
    borrowed = {
        name: scratch.take(like, count)
        for name, count in program.extents.items()
        if name not in buffers
    }
    arrays = {**buffers, **borrowed}
    wires = {name: transport.wire(arrays[name]) for name in program.travels}
    tickets: dict[int, tuple[Ticket, int]] = {}
    call.pending = partial(_peers, transport.test, tickets)
    transport.begin()
    for number, (kind, waits, peer, spans) in enumerate(program.instructions):
        for earlier in waits:
            ticket = tickets[earlier][0]
            while not transport.test(ticket):
                yield
            del tickets[earlier]
            call.finished += 1
        if kind <= RECV:
            span = spans[0]
            content = wires[span.buffer][span.start * item : span.stop * item]
            start = transport.send if kind == SEND else transport.receive
            tickets[number] = start(channel, content, peer, call.tag), peer
        else:
            views = [arrays[span.buffer][span.start : span.stop] for span in spans]
            if kind == COMBINE:
                transport.compute(partial(ufunc, views[1], views[2], out=views[0]))
            else:
                transport.compute(partial(_copy, *views))
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
    for array in borrowed.values():
        scratch.give(array)
    call.messages += program.messages
    call.bytes += program.elements * item


def _instruction(step: Step) -> tuple[int, int, tuple[Span, ...]]:
    if isinstance(step, Send):
        return SEND, step.to, (step.span,)
    if isinstance(step, Recv):
        return RECV, step.source, (step.span,)
    if isinstance(step, Copy):
        return COPY, -1, (step.into, step.source)
    return COMBINE, -1, (step.into, step.left, step.right)


def _copy(into: Array, source: Array) -> None:
    into[...] = source


def _peers(test: Callable[[Ticket], bool], tickets: Mapping[int, tuple[Ticket, int]]) -> list[int]:
    """The other ends of the transfers that are not over."""
    return [peer for ticket, peer in tickets.values() if not test(ticket)]


def divide(array: Array, count: int) -> None:
    """Divide by a number of ranks, in the array's own dtype."""
    namespace(array).divide(array, array.dtype.type(count), out=array)
