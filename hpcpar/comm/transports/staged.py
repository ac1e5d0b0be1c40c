"""GPU arrays through pinned host memory, for an MPI that knows nothing of GPUs.

A send is a copy to the host and then a message; a receive is a message and then a copy to the GPU.
Both copies and the arithmetic have a stream each, because a GPU has a copy engine for each
direction beside its processors: while one chunk is copied up, the next travels and the one after it
is copied down, so a long transfer takes the time of the slowest of the three, not of their sum.

What has to wait for what, on the GPU and by events:

- the arithmetic waits for the stream of the caller, as it was at the call and as it is when the
  operation begins;
- a copy to the host waits for the arithmetic before it, which makes what is sent;
- a copy to the GPU waits for the arithmetic from before its receive, which may still read there;
- the arithmetic waits for the copies of the receives that were tested before it.

The runner waits for a send before it writes where the send reads. Pinned memory is used again when
MPI, or the copy to the GPU, is done with it. The device is never synchronized.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcpar.comm.transports.lanes import Lanes, Transfer
from hpcpar.comm.transports.mpi import Ticket
from hpcpar.comm.transports.stream import Event, Gpu, Stream

__all__ = ["CHUNK", "StagedTransport"]

# Bytes in a message. At the 25 to 50 GB/s of PCIe 4 and 5 a chunk takes 20 to 40 microseconds, some
# times what starting its copy and its message takes; larger chunks overlap less: the first must be
# down before anything travels, and the last must have come before it can go up.
CHUNK = 1 << 20


class StagedTransport:
    """The transport of CuPy arrays with any MPI."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._arithmetic, self._down, self._up = gpu.stream(), gpu.stream(), gpu.stream()
        self._pool = _Pool(gpu)
        self._lanes = Lanes()

    def wire(self, flat: Any) -> Any:
        """A flat device array as the bytes that `send` and `receive` take spans of."""
        return self._gpu.bytes_of(flat)

    def send(self, channel: MPI.Comm, span: Any, to: int, tag: int) -> Ticket:
        """Start sending: a copy when pinned memory is free, the message when the copy is there."""
        made = self._arithmetic.event()
        return self._enter(_Send(channel, to, tag, span, made, self._down, self._pool))

    def receive(self, channel: MPI.Comm, span: Any, source: int, tag: int) -> Ticket:
        """Start receiving exactly as many bytes as `span` has."""
        free = self._arithmetic.event()
        return self._enter(_Receive(channel, source, tag, span, free, self._up, self._pool))

    def test(self, ticket: Ticket) -> bool:
        """Whether later arithmetic may use what arrived, or overwrite what was sent."""
        if not ticket.over:
            self._lanes.move()
            if not ticket.over:
                return False
        if ticket.error is not None:
            raise ticket.error
        if ticket.landed is not None:
            self._arithmetic.wait(ticket.landed)
            ticket.landed = None
        return True

    def compute(self, work: Callable[[], object]) -> None:
        """Do some arithmetic, after the receives that were tested before."""
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
        return bool(ticket.done)

    def _enter(self, transfer: Transfer) -> Transfer:
        self._lanes.enter(transfer)
        return transfer


class _Send(Transfer):
    def __init__(
        self, channel: MPI.Comm, to: int, tag: int, span: Any, made: Event, down: Stream,
        pool: "_Pool",
    ) -> None:  # fmt: skip
        super().__init__(channel, to, tag)
        self._span, self._made, self._down, self._pool = span, made, down, pool

    def start(self) -> None:
        self._block = self._pool.take(len(self._span))
        self._content = self._block[: len(self._span)]
        self._down.wait(self._made)
        self._down.to_host(self._content, self._span)
        self._copied = self._down.event()

    def ready(self) -> bool:
        return self._copied.done

    def post(self) -> MPI.Request:
        return self.channel.Isend((self._content, MPI.BYTE), self.peer, self.tag)

    def land(self) -> None:
        self._pool.give(self._block)


class _Receive(Transfer):
    def __init__(
        self, channel: MPI.Comm, source: int, tag: int, span: Any, free: Event, up: Stream,
        pool: "_Pool",
    ) -> None:  # fmt: skip
        super().__init__(channel, source, tag)
        self.expects = len(span)
        self._span, self._free, self._up, self._pool = span, free, up, pool

    def start(self) -> None:
        self._block = self._pool.take(len(self._span))
        self._content = self._block[: len(self._span)]

    def ready(self) -> bool:
        return True

    def post(self) -> MPI.Request:
        return self.channel.Irecv((self._content, MPI.BYTE), self.peer, self.tag)

    def land(self) -> None:
        self._up.wait(self._free)
        self._up.to_device(self._span, self._content)
        self.landed = self._copied = self._up.event()

    def gone(self) -> bool:
        if not self._copied.done:
            return False
        self._pool.give(self._block)
        return True


class _Pool:
    """Pinned memory, which is slow to get, in powers of two."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._free: dict[int, list[np.ndarray]] = defaultdict(list)

    def take(self, size: int) -> np.ndarray:
        """A block of at least `size` bytes."""
        capacity = max(256, 1 << max(0, size - 1).bit_length())
        free = self._free[capacity]
        return free.pop() if free else self._gpu.pinned(capacity)

    def give(self, block: np.ndarray) -> None:
        """A block to use again."""
        self._free[len(block)].append(block)
