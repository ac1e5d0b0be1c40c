"""What a rank sees of itself and of its node."""

import contextlib
import importlib.metadata
import os
import platform
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcpar.comm.flight.folder import base_folder
from hpcpar.comm.selection.cache import processor
from hpcpar.device import Device
from hpcpar.threads import rank_threads

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["gpu_facts", "quota", "rank_facts", "versions"]

PACKAGES = ("hpcpar", "numpy", "mpi4py", "cupy-cuda12x", "cupy-cuda13x", "torch")


def rank_facts(comm: "Communicator", device: Device) -> dict[str, Any]:
    """As JSON can hold them; sizes in bytes, None where something cannot be known."""
    return {
        "rank": comm.rank,
        "node": comm.node,
        "host": socket.gethostname(),
        "machine": _text("/proc/sys/kernel/random/boot_id"),  # one for all its containers
        "pid": os.getpid(),
        "processor": processor(),
        "machine_cores": os.cpu_count() or 1,
        "cores": sorted(os.sched_getaffinity(0)),  # that this rank may run on
        "quota": quota(Path("/sys/fs/cgroup")),
        "threads": rank_threads(),
        "blas_threads": _blas_threads(),
        "memory": _memory(),
        "shm": _shm(),
        "temp": str(base_folder().parent),
        "temp_problem": _temp_problem(base_folder().parent),
        "gpu": gpu_facts(device),
        "gpus_of_machine": len(list(Path("/dev").glob("nvidia[0-9]*"))),
        "adapters": _adapters(),
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that are there."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def quota(groups: Path) -> float | None:
    """Cores' worth of time that the container allows; None for no limit.

    cgroup v2: cpu.max is "200000 100000", or "max 100000"; v1: two files in cpu/ (Linux kernel,
    "CFS Bandwidth Control").
    """
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        if (groups / "cpu.max").exists():
            limit, period = (groups / "cpu.max").read_text().split()
        else:
            limit = (groups / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (groups / "cpu" / "cpu.cfs_period_us").read_text()
        cores = int(limit) / int(period)
        return cores if cores > 0 else None
    return None


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _blas_threads() -> int | None:
    from threadpoolctl import threadpool_info

    found = [info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"]
    return max(found, default=None)


def _memory() -> int | None:
    """Bytes that can still be had on this node."""
    with contextlib.suppress(OSError, KeyError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    return None


def _shm() -> int | None:
    """The size of /dev/shm."""
    try:
        about = os.statvfs("/dev/shm")
    except OSError:
        return None
    return about.f_blocks * about.f_frsize


def _temp_problem(folder: Path) -> str:
    """Why flight recorders cannot be written, or nothing."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as error:
        return error.strerror or str(error)
    return ""


def gpu_facts(device: Device) -> dict[str, Any] | None:
    """The GPU of this rank, and how many it sees."""
    if device.kind != "cuda":
        return None
    runtime = device.xp.cuda.runtime
    return {
        "name": runtime.getDeviceProperties(device.index)["name"].decode(),
        "bus": runtime.deviceGetPCIBusId(device.index),
        "visible": runtime.getDeviceCount(),
    }


def _adapters() -> list[str]:
    """Fast network adapters with a port that is up (Linux kernel, "InfiniBand sysfs files")."""
    return sorted(
        {
            state.parts[-4]
            for state in Path("/sys/class/infiniband").glob("*/ports/*/state")
            if "ACTIVE" in _text(str(state))
        }
    )
