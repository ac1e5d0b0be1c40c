"""Host arrays, which MPI reads and writes where they lie."""

from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

__all__ = ["HostTransport", "MessageTransport", "Ticket", "arrived", "mismatch"]

Ticket = Any  # a transfer under way, as its transport knows it


class HostTransport:
    """NumPy arrays, as bytes: so every dtype travels, also those that MPI has no name for."""

    def __init__(self) -> None:
        self._status = MPI.Status()

    def wire(self, flat: np.ndarray) -> memoryview:
        """A flat array as the bytes that `send` and `receive` take spans of."""
        return flat.view(np.uint8).data

    def send(self, channel: MPI.Comm, span: memoryview, to: int, tag: int) -> Ticket:
        """Start sending."""
        return channel.Isend((span, MPI.BYTE), to, tag), None, to

    def receive(self, channel: MPI.Comm, span: memoryview, source: int, tag: int) -> Ticket:
        """Start receiving exactly as many bytes as `span` has."""
        return channel.Irecv((span, MPI.BYTE), source, tag), len(span), source

    def test(self, ticket: Ticket) -> bool:
        """Whether the transfer is over. Raises ValueError for a message of another length."""
        request, expected, peer = ticket
        return arrived(request, expected, peer, self._status)

    def compute(self, work: Callable[[], object]) -> None:
        """Do some arithmetic on arrays that transfers have filled or will send."""
        work()

    def ready(self) -> Ticket:
        """A point after everything so far: host arrays are always there."""
        return None

    def begin(self, ready: Ticket = None) -> None:
        """Before an operation reads its arrays."""

    def end(self) -> Ticket:
        """After its last step: tested until the results are there."""
        return None

    def ended(self, ticket: Ticket) -> bool:
        """Whether everything up to `end` has happened."""
        return True


class MessageTransport(HostTransport):
    """As `HostTransport`, and whoever is sent more than expected learns it in safety.

    Open MPI writes past the end of an array that meets a longer message, so a piece shorter than
    the longest possible lands in memory that has room for any.
    """

    def __init__(self, longest: int) -> None:
        """`longest` is the number of bytes that a piece can have."""
        super().__init__()
        self._longest = longest
        self._rooms: list[memoryview] = []

    def receive(self, channel: MPI.Comm, span: memoryview, source: int, tag: int) -> Ticket:
        """Start receiving exactly as many bytes as `span` has."""
        if len(span) >= self._longest:
            return super().receive(channel, span, source, tag)
        room = self._rooms.pop() if self._rooms else np.empty(self._longest, np.uint8).data
        return channel.Irecv((room, MPI.BYTE), source, tag), len(span), source, room, span

    def test(self, ticket: Ticket) -> bool:
        """Whether the transfer is over. Raises ValueError for a message of another length."""
        request, expected, peer, *landing = ticket
        if request == MPI.REQUEST_NULL:
            return True
        if not arrived(request, expected, peer, self._status):
            return False
        if landing:
            room, span = landing
            span[:] = room[:expected]
            self._rooms.append(room)
        return True


def arrived(request: MPI.Request, expected: int | None, peer: int, status: MPI.Status) -> bool:
    """Test a request; `expected` is the length in bytes of what it receives, None for a send."""
    try:
        if not request.Test(status):
            return False
    except MPI.Exception as error:
        if error.Get_error_class() != MPI.ERR_TRUNCATE:
            raise
        raise ValueError(mismatch(peer, "more", expected)) from None
    if expected is not None and status.Get_count(MPI.BYTE) != expected:
        raise ValueError(mismatch(peer, f"{status.Get_count(MPI.BYTE)} bytes", expected))
    return True


def mismatch(peer: int, got: str, expected: int | None) -> str:
    """One sentence for a message of another length than expected."""
    return (
        f"rank {peer} sent {got} where {expected} bytes were expected: "
        "the ranks' arrays differ in shape or dtype, or the ranks are in different calls"
    )
