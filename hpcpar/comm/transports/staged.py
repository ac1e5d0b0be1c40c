"""GPU arrays through pinned host memory, for an MPI that knows nothing of GPUs.

Everything on the GPU happens on one stream of the communicator's own: it first waits for the
stream of the caller, and the operation is over when it has run dry; the device is never
synchronized. A send is a copy to the host, an event, and then the MPI message; a receive is the MPI
message and then a copy to the GPU. Schedules cut large spans into pieces, so the copies and the
messages of different pieces overlap.
"""

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from mpi4py import MPI

from hpcpar.comm.transports.mpi import Ticket, arrived

__all__ = ["Event", "StagedTransport", "Stream"]


class Event(Protocol):
    """A point in a stream."""

    @property
    def done(self) -> bool:
        """Whether the stream has come past it."""


class Stream(Protocol):
    """What a GPU does for this transport, in the order it was told to."""

    def empty(self, size: int) -> np.ndarray:
        """Pinned host memory, `size` bytes."""

    def bytes_of(self, flat: Any) -> Any:
        """A flat device array as uint8, without a copy."""

    def after_caller(self) -> None:
        """Go on when the stream of the caller has come to here."""

    def to_host(self, host: np.ndarray, source: Any) -> None:
        """Copy device bytes to pinned bytes."""

    def to_device(self, target: Any, host: np.ndarray) -> None:
        """Copy pinned bytes to device bytes."""

    def compute(self, work: Callable[[], object]) -> None:
        """Queue the kernels that `work` starts."""

    def event(self) -> Event:
        """A point after everything so far."""


@dataclass(slots=True)
class _Outgoing:
    block: np.ndarray  # pinned; its first `size` bytes travel
    size: int
    copied: Event
    to: int
    tag: int
    channel: MPI.Comm
    request: MPI.Request | None = None  # none while the copy to the host is under way


@dataclass(slots=True)
class _Incoming:
    block: np.ndarray
    target: Any
    source: int
    request: MPI.Request


class StagedTransport:
    """The transport of CuPy arrays; `stream` does the copies and the arithmetic."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._status = MPI.Status()
        self._outbox: deque[_Outgoing] = deque()
        self._pool = _Pool(stream)

    def wire(self, flat: Any) -> Any:
        """A flat device array as the bytes that `send` and `receive` take spans of."""
        return self._stream.bytes_of(flat)

    def send(self, channel: MPI.Comm, span: Any, to: int, tag: int) -> Ticket:
        """Start sending: the copy now, the message when the copy is there."""
        block, size = self._pool.take(len(span)), len(span)
        self._stream.to_host(block[:size], span)
        ticket = _Outgoing(block, size, self._stream.event(), to, tag, channel)
        self._outbox.append(ticket)
        self._post()
        return ticket

    def receive(self, channel: MPI.Comm, span: Any, source: int, tag: int) -> Ticket:
        """Start receiving exactly as many bytes as `span` has."""
        block = self._pool.take(len(span))
        request = channel.Irecv((block[: len(span)], MPI.BYTE), source, tag)
        return _Incoming(block, span, source, request)

    def test(self, ticket: Ticket) -> bool:
        """Whether later work on the stream may use what arrived, or overwrite what was sent."""
        self._post()
        if isinstance(ticket, _Outgoing):
            if ticket.request is None or not ticket.request.Test():
                return False
            self._pool.give(ticket.block)
            return True
        size = len(ticket.target)
        if not arrived(ticket.request, size, ticket.source, self._status):
            return False
        self._stream.to_device(ticket.target, ticket.block[:size])
        self._pool.give(ticket.block, self._stream.event())
        return True

    def compute(self, work: Callable[[], object]) -> None:
        """Do some arithmetic, after the copies that were started before."""
        self._stream.compute(work)

    def begin(self) -> None:
        """Wait, on the GPU, for whatever makes the arrays of an operation."""
        self._stream.after_caller()

    def end(self) -> Ticket:
        """The event after the last step of an operation."""
        return self._stream.event()

    def ended(self, ticket: Ticket) -> bool:
        """Whether the GPU has come to it: then any stream may use the results."""
        return bool(ticket.done)

    def _post(self) -> None:
        """Hand over what has come to the host, in order: messages to a rank must not overtake."""
        while self._outbox and self._outbox[0].copied.done:
            message = self._outbox.popleft()
            content = message.block[: message.size]
            message.request = message.channel.Isend((content, MPI.BYTE), message.to, message.tag)


class _Pool:
    """Pinned memory, which is slow to get, in powers of two."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._free: dict[int, list[np.ndarray]] = defaultdict(list)
        self._cooling: deque[tuple[Event, np.ndarray]] = deque()  # still read by the GPU

    def take(self, size: int) -> np.ndarray:
        """A block of at least `size` bytes."""
        while self._cooling and self._cooling[0][0].done:
            self.give(self._cooling.popleft()[1])
        capacity = max(256, 1 << max(0, size - 1).bit_length())
        free = self._free[capacity]
        return free.pop() if free else self._stream.empty(capacity)

    def give(self, block: np.ndarray, after: Event | None = None) -> None:
        """A block to use again, now or when the GPU has come past `after`."""
        if after is None:
            self._free[len(block)].append(block)
        else:
            self._cooling.append((after, block))
