"""The MPI library, and what it is fit for."""

import contextlib
import ctypes
import os
from collections.abc import Mapping

from mpi4py import MPI

from hpcpar.comm.selection.cache import cache_folder
from hpcpar.comm.transports.probe import cuda_aware
from hpcpar.device import Device

__all__ = ["cuda_support", "fault_tolerance", "launcher", "library_facts"]

TRIAL = 30  # seconds: less than other ranks wait
LEVELS = {
    MPI.THREAD_SINGLE: "single",
    MPI.THREAD_FUNNELED: "funneled",
    MPI.THREAD_SERIALIZED: "serialized",
    MPI.THREAD_MULTIPLE: "multiple",
}


def library_facts(device: Device) -> dict[str, str]:
    """Short texts by name. On a GPU it may take seconds to find out what MPI does with one."""
    vendor, numbers = MPI.get_vendor()
    return {
        "library": f"{vendor} {'.'.join(map(str, numbers))}",
        "standard": ".".join(map(str, MPI.Get_version())),
        "threads": LEVELS.get(MPI.Query_thread(), "unknown"),
        "cuda-aware": cuda_support(device),
        "fault tolerance": fault_tolerance(vendor, os.environ),
        "launcher": launcher(os.environ),
    }


def cuda_support(device: Device) -> str:
    """Whether the library takes GPU memory; without a GPU, what it says of itself.

    Open MPI and MPICH have a function for it, MPIX_Query_cuda_support, that mpi4py does not show.
    """
    if device.kind == "cuda":
        with contextlib.suppress(RuntimeError):  # no home, so nowhere to keep the answer
            return "yes (tried)" if cuda_aware(cache_folder(), limit=TRIAL) else "no (tried)"
    try:
        query = ctypes.CDLL(MPI.__file__).MPIX_Query_cuda_support
    except (OSError, AttributeError):
        return "unknown"
    query.restype, query.argtypes = ctypes.c_int, []
    return "yes" if query() else "no"


def fault_tolerance(vendor: str, environ: Mapping[str, str]) -> str:
    """Whether the other ranks go on when one is lost (User Level Failure Mitigation)."""
    if vendor != "Open MPI":
        return "no" if vendor == "MPICH" else "unknown"
    if environ.get("OMPI_MCA_mpi_ft_enable", "").lower() in ("1", "true", "yes"):
        return "on (ULFM)"
    return "off (mpirun --with-ft ulfm turns it on)"


def launcher(environ: Mapping[str, str]) -> str:
    """Who started this process."""
    slurm = "SLURM_STEP_ID" in environ or "SLURM_STEPID" in environ
    if "HYDI_CONTROL_FD" in environ:
        return "mpiexec (Hydra)"
    if "PRTE_LAUNCHED" in environ or "OMPI_TOOL_NAME" in environ:
        return "mpirun (Open MPI)"
    if "PMIX_RANK" in environ:
        return "srun (PMIx)" if slurm else "a PMIx launcher"
    if "PMI_RANK" in environ:
        return "srun (PMI)" if slurm else "a PMI launcher"
    return "none: started alone"
