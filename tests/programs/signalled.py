"""`hpcpar.train` that is sent signals: `python tests/programs/signalled.py WHAT ...`.

WHAT is RANK@STEP:SIGNAL, several joined by commas: before the vote on that step the rank sends it
to itself, or with a + behind it to the process group that the job was started in, as Ctrl-C does;
then it waits until it has come back. The rest are arguments of training. With HPCPAR_MARK, a
folder, each comes once, whoever starts the program again.
"""

import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

from mpi4py import MPI

import hpcpar.train
from hpcpar.entry import run_ranks
from hpcpar.recovery import Crew

WHAT = [word.partition("@")[::2] for word in sys.argv[1].split(",")]
LIMIT = 20  # seconds


class SignalledCrew(Crew):
    """Signals come before its votes."""

    def update(self, step: int, rate: float, scale: float) -> None:
        """As it is, after the signals."""
        for rank, when in WHAT:
            at, _, name = when.partition(":")
            if (MPI.COMM_WORLD.Get_rank(), step) == (int(rank), int(at)) and first(rank, at):
                self.send(getattr(signal, name.rstrip("+")), name.endswith("+"))
        super().update(step, rate, scale)

    def send(self, number: int, group: bool) -> None:
        """And wait until it is here."""
        if not group:
            os.kill(os.getpid(), number)
            return
        os.killpg(os.getpgid(launcher()), number)
        began = time.monotonic()
        while not self._signals.came:
            assert time.monotonic() - began < LIMIT, "the signal did not come back"
            time.sleep(0.001)


def launcher() -> int:
    """The process that started mpirun."""
    pid = os.getppid()
    while not re.search(rb"mpirun\.py|hpcpar\0launch\0", proc(pid, "cmdline")):
        pid = int(proc(pid, "stat").rpartition(b")")[2].split()[1])
    return pid


def proc(pid: int, name: str) -> bytes:
    return Path("/proc", str(pid), name).read_bytes()


def first(rank: str, step: str) -> bool:
    """Whether this rank comes to this step for the first time, of all launches."""
    if folder := os.environ.get("HPCPAR_MARK"):
        try:
            Path(folder, f"{rank}@{step}").touch(exist_ok=False)
        except FileExistsError:
            return False
    return True


if __name__ == "__main__":
    training: Any = hpcpar.train
    training.Crew = SignalledCrew
    run_ranks(lambda world: hpcpar.train.main(sys.argv[2:], world))
