"""Which hosts can be reached: mpirun itself is asked to start something there."""

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence

__all__ = ["host_options", "reachable"]

LIMIT = 20.0  # seconds of a try
TRIES = 3
SCRATCH = "PRTE_MCA_prte_local_tmpdir_base"  # where mpirun itself writes, on this node


def reachable(
    mpirun: Sequence[str], hosts: Mapping[str, int], open_mpi: bool, environ: Mapping[str, str]
) -> dict[str, int]:
    """Those of `hosts` on which mpirun can start a process; all are tried at once.

    One that gives no answer is tried again: what a lost job has left may be in the way.
    """
    good: set[str] = set()
    silent = list(hosts)
    for _ in range(TRIES):
        silent = _try(mpirun, silent, open_mpi, environ, good) if silent else []
    return {host: slots for host, slots in hosts.items() if host in good}


def _try(
    mpirun: Sequence[str], hosts: Sequence[str], open_mpi: bool, environ: Mapping[str, str],
    good: set[str],
) -> list[str]:  # fmt: skip
    """Add those of `hosts` that answer well to `good`; the ones that do not answer.

    Open MPI's launches of a user share a folder, which the last one to end removes, also where
    another one is about to write there, and then fails: so each has its own.
    """
    with tempfile.TemporaryDirectory(prefix="hpcpar", ignore_cleanup_errors=True) as scratch:
        tries = dict[str, subprocess.Popen[bytes]]()
        for host in hosts:
            own = os.path.join(scratch, str(len(tries)))
            os.mkdir(own)
            tries[host] = subprocess.Popen(
                [*mpirun, *host_options({host: 1}, open_mpi), "-n", "1", "true"],
                env={**environ, SCRATCH: own}, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        deadline, silent = time.monotonic() + LIMIT, list[str]()
        for host, process in tries.items():
            try:
                if process.wait(max(0.1, deadline - time.monotonic())) == 0:
                    good.add(host)
            except subprocess.TimeoutExpired:
                silent.append(host)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, 9)
                process.wait()
    return silent


def host_options(hosts: Mapping[str, int], open_mpi: bool) -> list[str]:
    """For mpirun: how many ranks each host takes."""
    named = ",".join(f"{host}:{slots}" for host, slots in hosts.items())
    return ["--host" if open_mpi else "-hosts", named] if hosts else []
