"""Messages from one rank to another.

A message is matched by its sender, its receiver and its tag, in the order in which they were
started. The receiver says how long it is, by the array it gives.
"""

import numpy as np

from hpcpar.comm.arguments import check_rank, overlap
from hpcpar.comm.core import Core
from hpcpar.comm.request import Call, Request, Work
from hpcpar.comm.running import SEGMENT_BYTES
from hpcpar.device import Array
from hpcpar.schedule import collectives as schedules
from hpcpar.schedule.steps import Step

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
        steps = schedules.send(to, array.nbytes, segment=SEGMENT_BYTES)
        return self._begin("send", steps, {"x": array}, tag)

    def recv(self, out: Array, source: int, tag: int = 0) -> Array:
        """Receive an array of the shape and dtype of `out` from rank `source`; returns `out`.

        Raises ValueError when the message has another length.
        """
        return self.irecv(out, source, tag).wait()

    def irecv(self, out: Array, source: int, tag: int = 0) -> Request:
        """`recv`, only started."""
        array = self._operand("recv", "out", out, writable=True)
        peer = check_rank("recv", "source", source, self.size)
        steps = schedules.receive(peer, array.nbytes, segment=SEGMENT_BYTES)
        return self._begin("recv", steps, {"out": array}, tag, out)

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
        steps = schedules.sendrecv(to, leaving.nbytes, peer, arriving.nbytes, segment=SEGMENT_BYTES)
        return self._begin("sendrecv", steps, {"x": leaving, "out": arriving}, tag, out)

    def _begin(
        self,
        name: str,
        steps: tuple[Step, ...],
        arrays: dict[str, Array],
        tag: int,
        returned: object = None,
    ) -> Request:
        """Messages are schedules over bytes: what is sent and received may differ in dtype."""
        if not isinstance(tag, int | np.integer) or not 0 <= tag < self._tags:
            raise ValueError(f"{name}: tag is {tag!r}; it must be from 0 to {self._tags - 1}")
        flats = {key: array.reshape(-1).view("uint8") for key, array in arrays.items()}

        def work(call: Call) -> Work:
            yield from self._perform(call, steps, flats, channel=self._message)
            return returned

        return self._start(name, work, kind="message", tag=int(tag))
