"""Messages from one rank to another.

A message is matched by its sender, its receiver and its tag, in the order in which they were
started. The receiver says how long it is, by the array it gives.
"""

from typing import Any

import numpy as np

from hpcpar.comm.arguments import check_rank, overlap
from hpcpar.comm.core import Core
from hpcpar.comm.request import Call, Request, Work
from hpcpar.comm.running import SEGMENT_BYTES
from hpcpar.device import Array
from hpcpar.schedule import point_to_point as schedules
from hpcpar.schedule.steps import OWN

__all__ = ["Messages"]


class Messages(Core):
    """send, recv, sendrecv and their i- forms."""

    def send(self, x: Array, dest: int, tag: int = 0) -> None:
        """Send an array to rank `dest`; it may be changed afterwards."""
        self.isend(x, dest, tag).wait()

    def isend(self, x: Array, dest: int, tag: int = 0) -> Request:
        """`send`, only started."""
        array = self._operand("send", "x", x)
        to = check_rank("send", "dest", dest, self.size)
        return self._begin("send", tag, x=array, dest=to)

    def recv(self, out: Array, source: int, tag: int = 0) -> Array:
        """Receive an array of the shape and dtype of `out` from rank `source`; returns `out`.

        Raises ValueError when the message has another length.
        """
        return self.irecv(out, source, tag).wait()

    def irecv(self, out: Array, source: int, tag: int = 0) -> Request:
        """`recv`, only started."""
        array = self._operand("recv", "out", out, writable=True)
        peer = check_rank("recv", "source", source, self.size)
        return self._begin("recv", tag, out=array, source=peer, returned=out)

    def sendrecv(self, x: Array, dest: int, out: Array, source: int, tag: int = 0) -> Array:
        """Send `x` to `dest` and receive `out` from `source` at the same time; returns `out`."""
        return self.isendrecv(x, dest, out, source, tag).wait()

    def isendrecv(self, x: Array, dest: int, out: Array, source: int, tag: int = 0) -> Request:
        """`sendrecv`, only started."""
        leaving = self._operand("sendrecv", "x", x)
        arriving = self._operand("sendrecv", "out", out, writable=True)
        to = check_rank("sendrecv", "dest", dest, self.size)
        peer = check_rank("sendrecv", "source", source, self.size)
        if type(leaving) is not type(arriving):
            raise ValueError("sendrecv: one of x and out is on the host and the other on a GPU")
        if overlap("sendrecv", leaving, arriving):
            raise ValueError("sendrecv: x and out are the same memory; they must be separate")
        return self._begin(
            "sendrecv", tag, x=leaving, dest=to, out=arriving, source=peer, returned=out
        )

    def _begin(self, name: str, tag: int, **ends: Any) -> Request:
        """Start a message; `ends` is what `_travel` takes."""
        if not isinstance(tag, int | np.integer) or not 0 <= tag < self._tags:
            raise ValueError(f"{name}: tag is {tag!r}; it must be from 0 to {self._tags - 1}")
        return self._start(
            name, lambda call: self._travel(call, **ends), kind="message", tag=int(tag), **ends
        )

    def _travel(
        self,
        call: Call,
        x: Array | None = None,
        dest: int = OWN,
        out: Array | None = None,
        source: int = OWN,
        returned: object = None,
    ) -> Work:
        """Send `x` to `dest`, receive `out` from `source`, or both.

        As bytes: what is sent and received may differ in dtype.
        """
        arrays = {name: array for name, array in (("x", x), ("out", out)) if array is not None}
        flats = {name: array.reshape(-1).view("uint8") for name, array in arrays.items()}
        sizes = [len(flat) for flat in flats.values()]
        if out is None:
            steps = schedules.send(dest, *sizes, segment=SEGMENT_BYTES)
        elif x is None:
            steps = schedules.receive(source, *sizes, segment=SEGMENT_BYTES)
        else:
            sent, received = sizes
            steps = schedules.sendrecv(dest, sent, source, received, segment=SEGMENT_BYTES)
        yield from self._perform(call, steps, flats, channel=self._message)
        return returned
