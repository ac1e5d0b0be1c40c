"""What the runner asks of a way that bytes travel."""

from collections.abc import Callable
from typing import Any, Protocol

from mpi4py import MPI

from hpcpar.comm.transports.mpi import Ticket

__all__ = ["Transport"]


class Transport(Protocol):
    """Transfers are started and then tested; arithmetic is told in the order of the schedule."""

    def wire(self, flat: Any) -> Any:
        """A flat array as the bytes that `send` and `receive` take spans of."""

    def send(self, channel: MPI.Comm, span: Any, to: int, tag: int) -> Ticket:
        """Start sending."""

    def receive(self, channel: MPI.Comm, span: Any, source: int, tag: int) -> Ticket:
        """Start receiving exactly as many bytes as `span` has."""

    def test(self, ticket: Ticket) -> bool:
        """Whether later steps may use what arrived, or overwrite what was sent."""

    def compute(self, work: Callable[[], object]) -> None:
        """Do some arithmetic, after the receives that were tested before."""

    def ready(self) -> Ticket:
        """A point after everything so far in the stream of the caller: taken when he calls."""

    def begin(self, ready: Ticket = None) -> None:
        """Before an operation reads its arrays: not before `ready`.

        Nor before what is in the caller's stream by now: he may wait under another stream than he
        called under, and a result that is allocated now may be memory still in use there.
        """

    def end(self) -> Ticket:
        """After a step: tested by `ended` until everything so far has happened."""

    def ended(self, ticket: Ticket) -> bool:
        """Whether everything up to `end` has happened."""
