"""The stream of `StagedTransport` on a real GPU. Imported only where there is one."""

from collections.abc import Callable
from typing import Any

import cupy
import cupyx
import numpy as np

__all__ = ["CudaStream"]


class CudaStream:
    """A stream of its own on the current GPU (CUDA Runtime API, "Stream Management")."""

    def __init__(self) -> None:
        self._stream = cupy.cuda.Stream(non_blocking=True)

    def empty(self, size: int) -> np.ndarray:
        """Pinned host memory, `size` bytes."""
        return cupyx.empty_pinned(size, np.uint8)

    def bytes_of(self, flat: Any) -> Any:
        """A flat device array as uint8, without a copy."""
        return flat.view(cupy.uint8)

    def after_caller(self) -> None:
        """Go on when the calling thread's current stream has come to here."""
        ready = cupy.cuda.Event(disable_timing=True)
        ready.record(cupy.cuda.get_current_stream())
        self._stream.wait_event(ready)

    def to_host(self, host: np.ndarray, source: Any) -> None:
        """Copy device bytes to pinned bytes."""
        self._copy(host.ctypes.data, source.data.ptr, len(host), "DeviceToHost")

    def to_device(self, target: Any, host: np.ndarray) -> None:
        """Copy pinned bytes to device bytes."""
        self._copy(target.data.ptr, host.ctypes.data, len(host), "HostToDevice")

    def compute(self, work: Callable[[], object]) -> None:
        """Queue the kernels that `work` starts."""
        with self._stream:
            work()

    def event(self) -> Any:
        """A point after everything so far."""
        event = cupy.cuda.Event(disable_timing=True)
        event.record(self._stream)
        return event

    def _copy(self, target: int, source: int, size: int, direction: str) -> None:
        if size:
            kind = getattr(cupy.cuda.runtime, f"memcpy{direction}")
            cupy.cuda.runtime.memcpyAsync(target, source, size, kind, self._stream.ptr)
