"""Which device a rank computes on, and the array library that goes with it.

CuPy is imported only when a GPU was asked for or found: on a machine without one its import works,
but parts of it raise later, on use.
"""

import contextlib
import os
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy

from hpcpar.errors import UserError

__all__ = ["Array", "Device", "address", "as_array", "free_host_bytes", "namespace", "to_host"]

_DLPACK_CPU, _DLPACK_PINNED = 1, 3  # DLDeviceType in dlpack.h

Array = Any  # a numpy.ndarray or a cupy.ndarray


def namespace(array: Array) -> ModuleType:
    """numpy or cupy, whichever made `array`; CuPy is not imported, its arrays bring it along."""
    if type(array).__module__.partition(".")[0] == "cupy":
        return sys.modules["cupy"]
    return numpy


def address(array: Array) -> int:
    """Where in memory the first element lies."""
    if isinstance(array, numpy.ndarray):
        return int(array.__array_interface__["data"][0])
    return int(array.data.ptr)


def as_array(thing: object) -> Array:
    """`thing` as a NumPy or CuPy array over the same memory, without a copy.

    NumPy and CuPy arrays pass through; those of other libraries (PyTorch, JAX) come through DLPack.
    Raises TypeError for anything else.
    """
    if isinstance(thing, numpy.ndarray) or namespace(thing) is not numpy:
        return thing
    if not hasattr(thing, "__dlpack_device__"):
        raise TypeError(
            f"{type(thing).__name__} is no array: give a NumPy or CuPy array, or one with DLPack"
        )
    if int(thing.__dlpack_device__()[0]) in (_DLPACK_CPU, _DLPACK_PINNED):
        return numpy.from_dlpack(thing)  # type: ignore[arg-type]
    import cupy

    return cupy.from_dlpack(thing)


def to_host(array: Array) -> numpy.ndarray:
    """`array` as a NumPy array; a GPU array is copied, after the work that makes it."""
    return array if isinstance(array, numpy.ndarray) else array.get()


@dataclass(frozen=True)
class Device:
    """A CPU, or one of the node's GPUs."""

    kind: str = "cpu"  # "cpu" or "cuda"
    index: int = 0  # number of the GPU among those this process sees

    @classmethod
    def resolve(cls, wish: str, local_rank: int) -> "Device":
        """The device of the rank with this number on its node; `wish` is auto, cpu or cuda.

        GPUs are dealt round robin by node-local rank, so several ranks may share one. `auto`
        takes a GPU where CuPy is installed and sees one. Raises `UserError` when cuda is wished
        for and there is none.
        """
        if wish not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device is {wish!r}; it must be auto, cpu or cuda")
        if wish == "cpu" or (wish == "auto" and not _gpu_may_exist()):
            return cls()
        try:
            count = _cuda_device_count()
        except _NoCuda as error:
            if wish == "auto":
                return cls()
            raise UserError(f"--device cuda: {error}; use --device cpu") from None
        device = cls("cuda", local_rank % count)
        device.use()
        return device

    @property
    def xp(self) -> ModuleType:
        """The array library: numpy on a CPU, cupy on a GPU."""
        if self.kind == "cpu":
            return numpy
        import cupy

        return cupy

    def use(self) -> None:
        """Make this GPU the calling thread's current one; nothing to do for a CPU."""
        if self.kind == "cuda":
            self.xp.cuda.Device(self.index).use()

    def asarray(self, array: Array) -> Array:
        """`array` on this device; a host array is copied to a GPU."""
        return self.xp.asarray(array)

    def free_bytes(self) -> int | None:
        """Memory that can still be had, of the whole node or of the GPU; None if nobody says."""
        if self.kind == "cuda":
            return int(self.xp.cuda.runtime.memGetInfo()[0])
        try:
            return free_host_bytes()
        except (OSError, KeyError, ValueError):
            return None

    def used_bytes(self) -> int | None:
        """Memory of the GPU that is in use, by all that use it; None on a CPU."""
        if self.kind == "cpu":
            return None
        free, total = self.xp.cuda.runtime.memGetInfo()
        return int(total - free)

    def synchronize(self) -> None:
        """Wait for the work queued on this thread's current stream (not for the whole device)."""
        if self.kind == "cuda":
            self.xp.cuda.get_current_stream().synchronize()

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"cuda:{self.index}"


def free_host_bytes() -> int:
    """Bytes of the node's memory that can still be had, or of this process's control group.

    Raises OSError, KeyError or ValueError where Linux does not say.
    """
    # By open: a Path adds to Python's table of names, whose MB may grow in the midst of a call.
    with open("/proc/meminfo") as file:
        fields = dict(line.split(":") for line in file)
    left = int(fields["MemAvailable"].split()[0]) * 1024
    group = "/sys/fs/cgroup/memory."
    with (  # no limit ("max"), or no cgroups of version 2
        contextlib.suppress(OSError, ValueError),
        open(f"{group}max") as most,
        open(f"{group}current") as now,
    ):
        left = min(left, int(most.read()) - int(now.read()))
    return left


def resident_bytes() -> int | None:
    """Memory that this process has in use; None where Linux does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


class _NoCuda(Exception):
    pass


def _gpu_may_exist() -> bool:
    # Looking for a device node costs microseconds, importing CuPy a second.
    return os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/dxg")


def _cuda_device_count() -> int:
    try:
        import cupy
    except ImportError:
        raise _NoCuda(
            "CuPy is not installed: pip install 'hpcpar[cuda12]' or 'hpcpar[cuda13]'"
        ) from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise _NoCuda(f"no GPU can be used here ({error})") from None
    if count == 0:
        raise _NoCuda("this node has no GPU")
    return int(count)
