"""A stand-in for nccl4py's public module: groups of transfers in `LateGpu`'s streams, MPI beneath.

It has NCCL's rules: transfers are matched by their order alone; the calls of a group go on
independently, and what comes after them in their stream waits for all; after a group the
communicator is in progress for a while, when nothing else may be asked of it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
from late_gpu import LateStream
from mpi4py import MPI

__all__ = ["LateNccl"]

NAMES = ("int8", "uint8", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64",
         "bfloat16")  # fmt: skip


class Invalid(Exception):
    pass


class LateNccl:
    """One rank's view; `channel` carries the transfers."""

    SUM, MAX, MIN = MPI.SUM, MPI.MAX, MPI.MIN
    NcclInvalid = Invalid

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.groups: list[int] = []  # how many calls each had
        self.problem = ""
        self._calls: list[tuple[LateStream, Callable[[], Any]]] | None = None
        self.Communicator = SimpleNamespace(init=self._init)
        self.UniqueId = SimpleNamespace(from_bytes=bytes)
        self.NCCLConfig = SimpleNamespace
        self.NcclDataType = SimpleNamespace(from_numpy_dtype=self._known)

    def get_unique_id(self) -> bytes:
        if self.problem:
            raise RuntimeError(self.problem)
        return bytes(range(128))

    def get_error_string(self, state: int) -> str:
        return f"error {state}"

    @contextmanager
    def group(self) -> Iterator[None]:
        self._calls = []
        yield
        calls, self._calls = self._calls, None
        assert calls, "an empty group"
        self.groups.append(len(calls))
        self._launch(calls)

    def call(self, stream: LateStream, begin: Callable[[], Any]) -> None:
        """A call, in the open group or alone."""
        if self._calls is not None:
            self._calls.append((stream, begin))
        else:
            self._launch([(stream, begin)])

    def _launch(self, calls: list[tuple[LateStream, Callable[[], Any]]]) -> None:
        assert self.comm.looks == 0, "NCCL was still in progress"
        self.comm.looks = 2
        requests: list[Any] = []

        def work() -> bool:
            if not requests:
                requests.extend(begin() for _, begin in calls)
            requests[:] = [request for request in requests if not request.Test()] or [_OVER]
            return requests == [_OVER]

        (stream,) = {stream for stream, _ in calls}
        stream.put(work)

    def _init(self, ranks: int, rank: int, key: bytes, config: Any) -> "Comm":
        assert key == bytes(range(128)) and config.blocking is False
        self.comm = Comm(self)
        return self.comm

    @staticmethod
    def _known(dtype: np.dtype) -> str:
        if dtype.name not in NAMES:
            raise Invalid(dtype.name)
        return dtype.name


class Comm:
    def __init__(self, nccl: LateNccl) -> None:
        self.nccl, self.channel = nccl, nccl.channel
        self.looks = 2  # until it is not in progress any more
        self.state = 0
        self.ended = ""

    def get_async_error(self) -> int:
        self.looks = max(0, self.looks - 1)
        return 7 if self.looks else self.state

    def send(self, span: np.ndarray, peer: int, *, stream: LateStream) -> None:
        self.nccl.call(stream, lambda: self.channel.Isend((span, MPI.BYTE), peer, 1))

    def recv(self, span: np.ndarray, peer: int, *, stream: LateStream) -> None:
        self.nccl.call(stream, lambda: self.channel.Irecv((span, MPI.BYTE), peer, 1))

    def allreduce(self, x: np.ndarray, out: np.ndarray, op: Any, *, stream: LateStream) -> None:
        sent = MPI.IN_PLACE if x is out else x
        self.nccl.call(stream, lambda: self.channel.Iallreduce(sent, out, op))

    def destroy(self) -> None:
        self.ended = "destroyed"

    def abort(self) -> None:
        self.ended = "aborted"


class _Over:
    def Test(self) -> bool:
        return True


_OVER = _Over()
