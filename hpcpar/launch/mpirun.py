"""mpirun, as every launch here wants it: its environment, and what it does with signals.

    tools/mpirun -n 8 python -m hpcpar.train

Open MPI's mpirun ends its ranks within half a second of Ctrl-C or SIGTERM, with no setting for
that. So these do not reach it: it is sent SIGUSR1 instead, which it passes on to the ranks, and
training saves and ends. The same signal again, half a second later or more, ends the job at once.

Nothing but the standard library is imported: `tools/mpirun` runs this file by itself.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

__all__ = ["FAULT_TOLERANT", "Launch", "environment", "find_mpirun"]

# What Open MPI needs to outlive a rank; its other collectives are not made for that.
FAULT_TOLERANT = ("--with-ft", "ulfm", "--mca", "coll", "^han,hcoll,portals4,cuda")
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PATIENCE = 0.5  # seconds in which the same signal counts once: `timeout` sends it twice
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_SETTINGS = {
    # Open MPI's one-sided UCX component announces on standard error that it does not find its
    # hardware, and its one-sided OFI component looks for its own for a second in every MPI_Init.
    # Messages have other components, and hpcpar uses nothing one-sided of MPI's.
    "OMPI_MCA_osc": "^ucx",
    "OMPI_MCA_btl": "^ofi",
    # More ranks than cores is how one tries things out; and ranks bound to single cores by several
    # launches at once would share the first core and leave the others idle.
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}
_AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """For mpirun: without noise, as root too, with more ranks than cores too. What is set stays."""
    # Containers are often root inside; there Open MPI wants to be told twice. A user never is.
    return {**_SETTINGS, **environ, **(_AS_ROOT if os.geteuid() == 0 else {})}


def find_mpirun(environ: Mapping[str, str] = os.environ) -> str | None:
    """The mpirun of the virtual environment, or else that on the PATH; None if there is none."""
    own = [os.path.join(environ["VIRTUAL_ENV"], "bin")] if environ.get("VIRTUAL_ENV") else []
    return shutil.which("mpirun", path=os.pathsep.join([*own, environ.get("PATH", os.defpath)]))


class Launch:
    """A running mpirun, which ends, with its ranks, when this process does.

    Args:
        options: for `subprocess.Popen`.
    """

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        libc = ctypes.CDLL(None)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # for mpirun, for good
        try:
            self.process = subprocess.Popen(
                command,
                preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGHUP),  # noqa: PLW1509
                **options,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        self._asked = 0.0

    def stop(self) -> None:
        """Ask the ranks to stop; when that was asked half a second ago or more, end them."""
        now = time.monotonic()
        if not self._asked:
            self._asked = now
            self.process.send_signal(signal.SIGUSR1)
        elif now - self._asked > _PATIENCE:
            self.process.send_signal(signal.SIGHUP)

    @property
    def status(self) -> int | None:
        """Of the job, as a shell tells it; None while it runs."""
        code = self.process.poll()
        return 128 - code if code is not None and code < 0 else code


def main(arguments: Sequence[str]) -> int:
    mpirun = find_mpirun()
    if mpirun is None:
        print("tools/mpirun: there is no mpirun on the PATH", file=sys.stderr)
        return 2
    launch = Launch([mpirun, *arguments], env=environment())

    def stop(number: int, frame: FrameType | None) -> None:
        launch.stop()

    for number in STOP_SIGNALS:
        signal.signal(number, stop)
    launch.process.wait()
    return launch.status or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
