"""A real GPU for the transports (CUDA Runtime API). Imported only where there is one."""

from collections.abc import Callable
from typing import Any

import cupy
import cupyx
import numpy as np
from mpi4py import MPI

__all__ = ["CudaGpu"]


class CudaGpu:
    """The calling thread's current GPU."""

    def stream(self) -> "_CudaStream":
        """A new stream, which does not wait for the default stream either."""
        return _CudaStream(cupy.cuda.Stream(non_blocking=True))

    def caller(self) -> Any:
        """A point after everything so far in the calling thread's current stream."""
        return _recorded(cupy.cuda.get_current_stream())

    def pinned(self, size: int) -> np.ndarray:
        """Page-locked host memory, `size` bytes."""
        return cupyx.empty_pinned(size, np.uint8)

    def bytes_of(self, flat: Any) -> Any:
        """A flat device array as uint8, without a copy."""
        return flat.view(cupy.uint8)

    def memory(self, span: Any) -> MPI.buffer:
        """Device bytes as a buffer for MPI; the array must be kept."""
        return MPI.buffer.fromaddress(span.data.ptr, span.nbytes)

    def card(self) -> str:
        """The UUID of the card."""
        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        return bytes(properties["uuid"]).hex()


class _CudaStream:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def handle(self) -> int:
        return int(self._stream.ptr)

    def to_host(self, host: np.ndarray, source: Any) -> None:
        self._copy(host.ctypes.data, source.data.ptr, len(host), "DeviceToHost")

    def to_device(self, target: Any, host: np.ndarray) -> None:
        self._copy(target.data.ptr, host.ctypes.data, len(host), "HostToDevice")

    def compute(self, work: Callable[[], object]) -> None:
        with self._stream:
            work()

    def event(self) -> Any:
        return _recorded(self._stream)

    def wait(self, event: Any) -> None:
        self._stream.wait_event(event)

    def _copy(self, target: int, source: int, size: int, direction: str) -> None:
        if size:
            kind = getattr(cupy.cuda.runtime, f"memcpy{direction}")
            cupy.cuda.runtime.memcpyAsync(target, source, size, kind, self._stream.ptr)


def _recorded(stream: Any) -> Any:
    event = cupy.cuda.Event(disable_timing=True)
    event.record(stream)
    return event
