"""Which hosts can be reached: mpirun itself is asked to start something there."""

import contextlib
import os
import subprocess
import time
from collections.abc import Mapping, Sequence

__all__ = ["host_options", "reachable"]

LIMIT = 30.0  # seconds


def reachable(
    mpirun: Sequence[str], hosts: Mapping[str, int], open_mpi: bool, environ: Mapping[str, str]
) -> dict[str, int]:
    """Those of `hosts` on which mpirun can start a process; all are tried at once."""
    tries = {
        host: subprocess.Popen(
            [*mpirun, *host_options({host: 1}, open_mpi), "-n", "1", "true"], env=dict(environ),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for host in hosts
    }  # fmt: skip
    deadline, good = time.monotonic() + LIMIT, {}
    for host, process in tries.items():
        try:
            if process.wait(max(0.1, deadline - time.monotonic())) == 0:
                good[host] = hosts[host]
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()
    return good


def host_options(hosts: Mapping[str, int], open_mpi: bool) -> list[str]:
    """For mpirun: how many ranks each host takes."""
    named = ",".join(f"{host}:{slots}" for host, slots in hosts.items())
    return ["--host" if open_mpi else "-hosts", named] if hosts else []
