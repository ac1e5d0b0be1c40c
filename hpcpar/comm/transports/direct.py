"""GPU arrays by an MPI that knows of GPUs: it takes and fills device memory itself.

MPI knows nothing of streams. So a message is handed over when the host has seen the event after the
arithmetic that makes it, and a receive when the arithmetic that still reads there is done; what has
come is there for every stream when MPI says so. Whether the MPI library is one of these has to be
known (`probe`): a wrong guess is a segmentation fault.
"""

from typing import Any

from mpi4py import MPI

from hpcpar.comm.transports.lanes import Transfer
from hpcpar.comm.transports.mpi import Ticket
from hpcpar.comm.transports.staged import StagedTransport
from hpcpar.comm.transports.stream import Event, Gpu

__all__ = ["SMALL", "DirectTransport"]

SMALL = 4096  # bytes: up to here a copy to the host costs less than what MPI does for GPU memory


class DirectTransport(StagedTransport):
    """The transport of CuPy arrays with a CUDA-aware MPI; small spans go through the host."""

    def send(self, channel: MPI.Comm, span: Any, to: int, tag: int) -> Ticket:
        """Start sending, when the GPU has made it."""
        if len(span) <= SMALL:
            return super().send(channel, span, to, tag)
        return self._enter(_Send(channel, to, tag, span, self._arithmetic.event(), self._gpu))

    def receive(self, channel: MPI.Comm, span: Any, source: int, tag: int) -> Ticket:
        """Start receiving exactly as many bytes as `span` has, when nobody reads there any more."""
        if len(span) <= SMALL:
            return super().receive(channel, span, source, tag)
        free = self._arithmetic.event()
        return self._enter(_Receive(channel, source, tag, span, free, self._gpu))


class _InPlace(Transfer):
    def __init__(
        self, channel: MPI.Comm, peer: int, tag: int, span: Any, after: Event, gpu: Gpu
    ) -> None:
        super().__init__(channel, peer, tag)
        self._span, self._after, self._gpu = span, after, gpu

    def start(self) -> None:
        self._buffer = (self._gpu.memory(self._span), MPI.BYTE)

    def ready(self) -> bool:
        return self._after.done

    def land(self) -> None:
        """What has come is there."""


class _Send(_InPlace):
    def post(self) -> MPI.Request:
        return self.channel.Isend(self._buffer, self.peer, self.tag)


class _Receive(_InPlace):
    def __init__(
        self, channel: MPI.Comm, source: int, tag: int, span: Any, free: Event, gpu: Gpu
    ) -> None:
        super().__init__(channel, source, tag, span, free, gpu)
        self.expects = len(span)

    def post(self) -> MPI.Request:
        return self.channel.Irecv(self._buffer, self.peer, self.tag)
