"""How a program of many ranks ends: one message for a mistake, and a truthful exit status.

0  done
1  anything unexpected: a traceback, from the rank where it happened
2  the user's mistake: one sentence from rank 0
3  a lost or hung rank, or one that computes wrongly: the sentence names it
75 stopped by a signal, and saved: to be started again
"""

import os
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from hpcpar.errors import (
    EXIT_HANG,
    EXIT_REQUEUE,
    EXIT_USER,
    AuditError,
    HangError,
    LostRankError,
    StoppedError,
    UserError,
)

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["note", "run_alone", "run_ranks"]


def run_ranks(main: Callable[["Communicator"], None]) -> NoReturn:
    """Run `main` with a host communicator of all ranks, then exit with the status that fits.

    A `UserError` is expected on all ranks at once (see `hpcpar.comm.together`); rank 0 prints it.
    Any other error ends the other ranks too, which would wait for this one otherwise.
    """
    from hpcpar.comm import Communicator, end_hung, end_process, speaks

    comm = None
    try:
        comm = Communicator(device="cpu")
        main(comm)
    except UserError as error:
        # Before there is a communicator, Slurm's number of the task tells who speaks for all.
        first = speaks(comm.rank) if comm else os.environ.get("SLURM_PROCID", "0") == "0"
        if first:
            print(f"hpcpar: {error}", file=sys.stderr, flush=True)
        end_process(EXIT_USER)
    except (LostRankError, AuditError) as error:
        if comm is not None and speaks(comm.rank):
            print(f"hpcpar: {error}", file=sys.stderr, flush=True)
        end_process(EXIT_HANG)
    except StoppedError:
        end_process(EXIT_REQUEUE)
    except HangError as error:
        end_hung(error)
    except Exception:
        where = f"rank {comm.rank}: " if comm is not None else ""
        _end(comm, where + traceback.format_exc(), 1)
    end_process(0)


def run_alone(main: Callable[[], None]) -> NoReturn:
    """Run `main` in this process alone, without MPI, then exit with the status that fits."""
    try:
        main()
    except UserError as error:
        print(f"hpcpar: {error}", file=sys.stderr, flush=True)
        sys.exit(EXIT_USER)
    sys.exit(0)


def note(text: str, comm: "Communicator | None" = None) -> None:
    """Say something on standard error, once: on rank 0, or on the calling rank without `comm`."""
    if comm is None or comm.rank == 0:
        print(f"hpcpar: note: {text}", file=sys.stderr, flush=True)


def _end(comm: "Communicator | None", message: str, status: int) -> NoReturn:
    from hpcpar.comm import abort

    print(message, file=sys.stderr, flush=True)
    if comm is not None and comm.size > 1:
        abort(status, comm.mpi)
    sys.exit(status)
