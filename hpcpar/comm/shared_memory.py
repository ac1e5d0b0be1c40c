"""Host memory that the other processes of a node can map.

It comes from `memfd_create` (Linux): no file system holds it, so it is not bound by the 64 MB of
/dev/shm in containers, and nothing is left behind when its processes are gone, however they ended.
The others open it through /proc/PID/fd. It is allocated in full at once: memory that runs out later
would be a SIGBUS.
"""

import ctypes
import mmap
import os
import weakref

import numpy as np

from hpcpar.device import free_host_bytes

__all__ = ["HostMemory", "check_memory"]

_libc = ctypes.CDLL(None, use_errno=True)
_mmap, _munmap = _libc.mmap, _libc.munmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class HostMemory:
    """Allocates shared memory, and opens that of others.

    A token says where it is: process, descriptor, device and inode. The descriptor must stay open
    (`HostMemory.close` not called) until everybody has opened it.
    """

    TOKEN = 32  # bytes

    def __init__(self) -> None:
        self._descriptor = -1

    @property
    def descriptor(self) -> int:
        """Of what was allocated, until `close`: for processes that cannot use the token."""
        return self._descriptor

    def allocate(self, size: int) -> tuple[np.ndarray, bytes]:
        """Zeroed memory of `size` bytes (uint8) and its token. Raises OSError."""
        self._descriptor = os.memfd_create("hpcpar", os.MFD_CLOEXEC)
        os.posix_fallocate(self._descriptor, 0, max(size, 1))
        facts = os.fstat(self._descriptor)
        token = np.array([os.getpid(), self._descriptor, facts.st_dev, facts.st_ino], np.uint64)
        return _mapped(self._descriptor, size), token.tobytes()

    def open(self, token: bytes, size: int) -> np.ndarray:
        """The memory of another process, from its token. Raises OSError."""
        pid, number, device, inode = (int(word) for word in np.frombuffer(token, np.uint64))
        descriptor = os.open(f"/proc/{pid}/fd/{number}", os.O_RDWR | os.O_CLOEXEC)
        try:
            facts = os.fstat(descriptor)
            if (facts.st_dev, facts.st_ino) != (device, inode):  # another PID namespace
                raise OSError(f"process {pid} is not the one that made the memory")
            return _mapped(descriptor, size)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Everybody has opened it: only the mappings hold the memory now."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def check_memory(size: int) -> None:
    """Raises OSError when this machine, or this container, has less than `size` bytes left.

    Asked before, because Linux would rather kill processes than refuse (proc(5), cgroups(7)).
    """
    left = free_host_bytes()
    if size > left:
        raise OSError(f"{size:,} bytes are needed on this node, and {left:,} are left")


def _mapped(descriptor: int, size: int) -> np.ndarray:
    """The memory as an array of uint8; it is unmapped with the last view of it.

    Not by Python's mmap, which keeps a descriptor for each mapping: a rank may have thousands.
    """
    length = max(size, 1)
    address = _mmap(None, length, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, descriptor, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), f"mmap: {os.strerror(ctypes.get_errno())}")
    memory = (ctypes.c_uint8 * length).from_address(address)
    weakref.finalize(memory, _munmap, address, length).atexit = False  # the end frees it anyway
    return np.ctypeslib.as_array(memory)[:size]
