"""How a process ends after a hang: with one story for the whole job, and status 3."""

import os
import signal
import sys
import time
from types import TracebackType
from typing import NoReturn

from mpi4py import MPI

from hpcpar.comm.flight import end_all, leave
from hpcpar.comm.lost import lost_ranks, survives
from hpcpar.errors import EXIT_HANG, HangError

__all__ = ["abort", "be_lost", "end_hung", "end_process", "end_uncaught_hangs", "speaks"]


def end_hung(error: HangError) -> NoReturn:
    """Tell what is known, on the one rank that was asked to, and end this process.

    Then the launcher ends the others, which wait for that, so that nobody ends the one that tells.
    An orderly end is not possible: MPI_Finalize would wait for everybody.
    """
    sys.stdout.flush()
    if error.story:
        print(f"hpcpar: {error.story}", file=sys.stderr, flush=True)
    else:
        time.sleep(_OTHERS)
        print(f"hpcpar: {error}", file=sys.stderr, flush=True)  # nobody has told more
    if survives():
        abort(EXIT_HANG, MPI.COMM_WORLD)
    os._exit(EXIT_HANG)


def abort(status: int, comm: MPI.Comm) -> NoReturn:
    """End the whole job now, with this status where the launcher tells it."""
    sys.stdout.flush()
    if survives():
        end_all()  # the launcher would leave the other ranks alive
    comm.Abort(status)
    os._exit(status)


def end_process(status: int) -> NoReturn:
    """End this process in order; without MPI_Finalize where a rank is gone, for that may hang."""
    if not survives() or not lost_ranks(MPI.COMM_WORLD):
        sys.exit(status)
    leave()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def be_lost() -> NoReturn:
    """End this process in the way that the launcher tells the others of as a loss."""
    leave()
    sys.stdout.flush()
    sys.stderr.flush()
    while True:
        os.kill(os.getpid(), signal.SIGKILL)


def speaks(rank: int) -> bool:
    """Whether this rank of the world says what one rank says for all: the first that is left."""
    gone = lost_ranks(MPI.COMM_WORLD) if survives() else []
    return rank == min(set(range(rank + 1)) - set(gone))


def end_uncaught_hangs() -> None:
    """From now on, a `HangError` that nobody catches ends the process so; not when interactive."""
    if sys.excepthook is _hook or hasattr(sys, "ps1") or sys.flags.interactive:
        return
    global _before
    _before, sys.excepthook = sys.excepthook, _hook


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, HangError):
        end_hung(error)
    _before(kind, error, trace)


_before = sys.excepthook
_OTHERS = 5.0  # seconds in which a launcher should have ended the ranks that tell nothing
