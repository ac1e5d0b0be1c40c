"""Whether the MPI library takes GPU memory: tried in another process, and remembered.

MPI has no portable question for it, and a library that does not know of GPUs takes a device pointer
for a host pointer: a segmentation fault. So a fresh Python starts MPI by itself, without a
launcher, and sends GPU memory to itself; whatever goes wrong there means no. The answer is kept in
a file, for this library, its settings and this driver; remove it to have it found out again.

    python -m hpcpar.comm.transports.probe        # what the child does
"""

import contextlib
import ctypes
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mpi4py import MPI

from hpcpar.files import write_whole

__all__ = ["cuda_aware"]

CHILD = (sys.executable, "-m", "hpcpar.comm.transports.probe")
YES = "hpcpar: GPU memory was sent and received"
LIMIT = 60  # seconds: importing CuPy on a busy file system, not the messages, takes long
SIZES = (64, 4096, 1 << 22)  # bytes: MPI libraries have several ways

# A child with the variables of a launcher would take itself for a rank, and wait for the others.
LAUNCHERS = ("ALPS_", "FLUX_", "HYDI_", "HYDRA_", "MPI_LOCAL", "OMPI_", "PALS_", "PMIX_", "PMI_",
             "PRTE_", "SLURM_")  # fmt: skip
# What of it says how messages travel stays, for the answer depends on it.
SETTINGS = ("MPICH_GPU_", "MPIR_CVAR_", "MV2_USE_CUDA", "OMPI_MCA_accelerator", "OMPI_MCA_btl",
            "OMPI_MCA_opal_cuda", "OMPI_MCA_pml", "UCX_")  # fmt: skip


def cuda_aware(cache: Path, *, child: Sequence[str] = CHILD, limit: float = LIMIT) -> bool:
    """Whether GPU memory can be handed to the MPI library of this process.

    Takes microseconds where the library says no by itself or the answer is known, else seconds, in
    a process of its own: call it outside of anything timed, on one rank of a node.

    Args:
        cache: a folder of the user's, where answers are kept.
        child: the command that tries it and prints `YES`.
        limit: seconds the child may take.
    """
    library = _library_path()
    if _library_says_no(library):
        return False
    facts = {
        "library": MPI.Get_library_version().strip("\0 \n"),
        "path": str(library),
        "driver": _driver(),
        "settings": {name: os.environ[name] for name in sorted(os.environ) if _is_setting(name)},
    }
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    file = cache / f"cuda-aware-{name[:32]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return bool(json.loads(file.read_text())["aware"])
    aware, reason = _try(child, limit)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time only
        cache.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps({"aware": aware, "reason": reason, **facts}, indent=1) + "\n")
    return aware


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that is not a rank of anything."""
    return {
        name: value
        for name, value in environment.items()
        if _is_setting(name) or not name.startswith(LAUNCHERS)
    }


def _is_setting(name: str) -> bool:
    return name.startswith(SETTINGS)


def _try(child: Sequence[str], limit: float) -> tuple[bool, str]:
    """Run the child; the answer and why."""
    try:
        result = subprocess.run(
            child,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
            env=child_environment(os.environ),
            start_new_session=True,  # its crash is nobody's signal
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, f"the trial did not end in {limit:g} s"
    except OSError as error:
        return False, f"the trial could not be started: {error}"
    if result.returncode == 0 and YES in result.stdout.splitlines():
        return True, "GPU memory was sent and received"
    last = (result.stderr.strip() or result.stdout.strip() or "no word").splitlines()[-1]
    return False, f"the trial ended with status {result.returncode}: {last}"


def _library_path() -> Path | None:
    """The file of the MPI library that this process has loaded (Linux)."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            path = Path(line.split(maxsplit=5)[-1])
            if path.name.startswith(("libmpi.so", "libmpich.so", "libmpi_gnu", "libmpi_cray")):
                return path
    return None


def _library_says_no(library: Path | None) -> bool:
    """Open MPI and MPICH have a question of their own; only their no can be relied on."""
    if library is None:
        return False
    with contextlib.suppress(OSError, AttributeError):
        return int(ctypes.CDLL(str(library)).MPIX_Query_cuda_support()) == 0
    return False


def _driver() -> str:
    """The version of the GPU's driver, as its kernel module tells it."""
    with contextlib.suppress(OSError):
        return Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    return "unknown"


def _send_to_oneself() -> None:
    """The child: may crash, must not lie."""
    import cupy

    alone = MPI.COMM_SELF
    for size in SIZES:
        sent = cupy.arange(size).astype(cupy.uint8)
        got = cupy.zeros(size, cupy.uint8)
        cupy.cuda.get_current_stream().synchronize()
        pair = [MPI.buffer.fromaddress(array.data.ptr, size) for array in (sent, got)]
        alone.Sendrecv([pair[0], MPI.BYTE], 0, 0, [pair[1], MPI.BYTE], 0, 0)
        if not bool((sent == got).all()):
            sys.exit(f"{size} bytes arrived with other values")
    print(YES, flush=True)


if __name__ == "__main__":
    _send_to_oneself()
