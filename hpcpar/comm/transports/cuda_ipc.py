"""GPU memory that other processes of a node can open (CUDA Runtime API, "cudaIpcGetMemHandle").

Two arrays of one memory pool have the same handle, and asynchronous, managed and virtual memory
cannot be shared at all; so each block comes from cudaMalloc by itself. It stays until its process
ends, as memory that is freed while others have it open is undefined. A process cannot open its own
handle.

Whether a peer's memory can be reached is tried, not asked: drivers have said yes and copied zeros.
"""

import secrets
from contextlib import suppress
from functools import partial
from typing import Any

import cupy
import numpy as np

__all__ = ["CudaMemory"]

_HANDLE, _MARK = 64, 16  # bytes
_UNIT = 2 << 20  # a smaller block could share its pages, and so its handle, with another array
_BLOCKS: list[Any] = []  # what others may have open; it is never freed


class CudaMemory:
    """Allocates GPU memory to be shared, and opens that of others: `HostMemory` for GPUs.

    A token is a handle and a mark, 16 random bytes that stand at the start of the memory until
    `close`: who opens it looks for them.
    """

    TOKEN = _HANDLE + _MARK  # bytes

    def __init__(self) -> None:
        self._own: dict[bytes, Any] = {}

    def allocate(self, size: int) -> tuple[Any, bytes]:
        """Zeroed memory (uint8) on the current GPU and its token. Raises OSError."""
        whole = max(1, -(-size // _UNIT)) * _UNIT
        try:
            pointer = cupy.cuda.runtime.malloc(whole)
            block = _array(pointer, whole, None)
            _BLOCKS.append(block)
            handle = cupy.cuda.runtime.ipcGetMemHandle(pointer)
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise OSError(str(error)) from None
        mark = secrets.token_bytes(_MARK)
        block[...] = 0
        block[:_MARK] = cupy.asarray(np.frombuffer(mark, np.uint8))
        cupy.cuda.get_current_stream().synchronize()
        token = bytes(handle) + mark
        self._own[token] = block
        return block[:size], token

    def open(self, token: bytes, size: int) -> Any:
        """The memory of another process, from its token. Raises OSError."""
        if token in self._own:
            return self._own[token][:size]
        try:
            pointer = cupy.cuda.runtime.ipcOpenMemHandle(token[:_HANDLE])
            block = _array(pointer, max(size, _MARK), _Opened(pointer))
            mark = block[:_MARK].get().tobytes()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise OSError(
                f"{error}; every rank must see all GPUs of its node: "
                "with Slurm ask for --gpus-per-node and --gpu-bind=none, not for --gpus-per-task"
            ) from None
        if mark != token[_HANDLE:]:
            raise OSError("what is read there is not what its owner wrote")
        return block[:size]

    def close(self) -> None:
        """Everybody has opened it: remove the mark."""
        for block in self._own.values():
            block[:_MARK] = 0
        cupy.cuda.get_current_stream().synchronize()
        self._own.clear()


class _Opened:
    """Closes a peer's memory with the last array of it."""

    def __init__(self, pointer: int) -> None:
        runtime = cupy.cuda.runtime  # at the end of the process modules may be gone before this
        self._close = partial(runtime.ipcCloseMemHandle, pointer)
        self._gone = runtime.CUDARuntimeError

    def __del__(self) -> None:
        with suppress(self._gone):  # with the process its mappings go anyway
            self._close()


def _array(pointer: int, size: int, owner: Any) -> Any:
    memory = cupy.cuda.UnownedMemory(pointer, size, owner, cupy.cuda.Device().id)
    return cupy.ndarray((size,), cupy.uint8, cupy.cuda.MemoryPointer(memory, 0))
