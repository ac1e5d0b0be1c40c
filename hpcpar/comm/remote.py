"""The ordinary memory of another process of this node, by way of the kernel (process_vm_readv(2)).

One copy instead of the two that a message through shared memory takes. Linux allows it to processes
of one user unless told otherwise (Yama, seccomp), so it is tried when a communicator is made.
"""

import ctypes
import os
import secrets

import numpy as np
from mpi4py import MPI

from hpcpar.device import address

__all__ = ["Remote", "find_reach"]

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PTRACER, _ANY = 0x59616D61, ctypes.c_ulong(-1)


class _Piece(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _function(name: str) -> "ctypes._NamedFuncPointer | None":
    function = getattr(_libc, name, None)
    if function is not None:
        pieces = ctypes.POINTER(_Piece)
        function.argtypes = [ctypes.c_int, *[pieces, ctypes.c_ulong] * 2, ctypes.c_ulong]
        function.restype = ctypes.c_ssize_t
    return function


_READ, _WRITE = _function("process_vm_readv"), _function("process_vm_writev")


class Remote:
    """An array of another process; spans of it are read and written, in bytes."""

    __slots__ = ("_base", "_pid")

    def __init__(self, pid: int, base: int) -> None:
        self._pid, self._base = pid, base

    def read(self, start: int, into: np.ndarray) -> None:
        """Fill `into` from byte `start` on. Raises OSError."""
        _move(_READ, self._pid, into, self._base + start)

    def write(self, start: int, source: np.ndarray) -> None:
        """Write `source` from byte `start` on. Raises OSError."""
        _move(_WRITE, self._pid, source, self._base + start)


def find_reach(mpi_comm: MPI.Comm) -> tuple[int, ...] | None:
    """Each rank's process id, if every rank reaches the memory of every other. Collective."""
    if _READ is None or _WRITE is None:
        pid = 0
    else:
        pid = os.getpid()
        _libc.prctl(_PR_SET_PTRACER, _ANY, 0, 0, 0)  # where Yama restricts it; else refused
    mark = np.array([secrets.randbits(62)], np.int64)
    mine = np.array([pid, address(mark), mark[0]], np.int64)
    table = np.empty((mpi_comm.Get_size(), 3), np.int64)
    mpi_comm.Allgather(mine, table)
    reached = np.array([all(_reaches(*row) for row in table.tolist())])
    mpi_comm.Allreduce(MPI.IN_PLACE, reached, MPI.LAND)  # which also keeps the marks until then
    return tuple(table[:, 0].tolist()) if reached[0] else None


def _reaches(pid: int, base: int, mark: int) -> bool:
    seen = np.zeros(1, np.int64)
    try:
        Remote(pid, base).read(0, seen)
    except OSError:
        return False
    return int(seen[0]) == mark


def _move(
    function: "ctypes._NamedFuncPointer | None", pid: int, own: np.ndarray, base: int
) -> None:
    if function is None or pid == 0:
        raise OSError("this system cannot read the memory of another process")
    done = 0
    while done < own.nbytes:
        here = _Piece(address(own) + done, own.nbytes - done)
        there = _Piece(base + done, own.nbytes - done)
        moved = function(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
        if moved <= 0:
            problem = os.strerror(ctypes.get_errno())
            raise OSError(ctypes.get_errno(), f"the memory of process {pid}: {problem}")
        done += moved
