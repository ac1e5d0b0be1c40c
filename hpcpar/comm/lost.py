"""Ranks that are gone, where MPI survives that (ULFM: Bland et al., IJHPCA 2013; Open MPI 5).

A call that needs a rank that is gone fails, and nobody else may be left waiting for those whose
call has failed: so they revoke their communicators, with which every other call there fails too.
Then the ranks that are left `shrink`, to go on without the lost ones.

Open MPI 5.0 crashes where a communicator is revoked that another rank has not come to the end of
making yet, or has freed. So ranks meet on the old communicator before they use a new one, and one
that was revoked is never freed.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mpi4py import MPI

from hpcpar.errors import EXIT_HANG, LostRankError

if TYPE_CHECKING:
    from hpcpar.comm.communicator import Communicator

__all__ = [
    "can_lose_ranks",
    "give_up",
    "is_loss",
    "kill_the_hung",
    "losses",
    "lost_ranks",
    "revoke",
    "shrink",
    "survives",
]

_CLASSES = (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING, MPI.ERR_REVOKED)


def is_loss(error: BaseException) -> bool:
    """Whether an error says that a rank is gone, or that others have found so."""
    if isinstance(error, MPI.Exception):
        return error.Get_error_class() in _CLASSES
    # A process is looked up where its memory is to be read (`remote`).
    return isinstance(error, LostRankError | ProcessLookupError)


def revoke(comms: Iterable[MPI.Comm]) -> None:
    """End every call on these communicators, on all their ranks, now and later."""
    for comm in comms:
        with contextlib.suppress(MPI.Exception):  # freed already, or an MPI that cannot
            comm.Revoke()


@contextmanager
def losses(comm: MPI.Comm, doing: str) -> Iterator[None]:
    """Around MPI's own calls on `comm`: a rank that is gone raises `LostRankError` on all ranks."""
    try:
        yield
    except (MPI.Exception, ProcessLookupError) as error:
        if not is_loss(error):
            raise
        revoke([comm])
        raise LostRankError(f"a rank was lost while {doing}") from error
    except LostRankError:
        revoke([comm])
        raise


def lost_ranks(comm: MPI.Comm) -> list[int]:
    """Those ranks of `comm` of which this process knows that they are gone."""
    with contextlib.suppress(MPI.Exception, NotImplementedError):  # an MPI that cannot tell
        gone, own = comm.Get_failed(), comm.Get_group()
        try:
            return sorted(MPI.Group.Translate_ranks(gone, None, own))
        finally:
            gone.Free()
            own.Free()
    return []


def shrink(comm: MPI.Comm, timeout: float) -> MPI.Intracomm:
    """A communicator of the ranks of `comm` that are left, in the same order. Collective over them.

    `comm` must be revoked. The process ends with status 3 where that takes `timeout` seconds: MPI's
    own call has no limit, and cannot be called off.
    """
    limit = threading.Timer(timeout, _give_up, [comm.Get_rank(), timeout])
    limit.daemon = True
    limit.start()
    try:
        while True:
            left = comm.Shrink()
            assert isinstance(left, MPI.Intracomm)
            left.Set_errhandler(MPI.ERRORS_RETURN)
            with contextlib.suppress(MPI.Exception):
                if left.Agree(1):  # fails on all where another rank was lost meanwhile
                    return left
            comm = left
    finally:
        limit.cancel()


def can_lose_ranks(comm: MPI.Comm) -> str:
    """Why this job would not outlive a rank, in words; nothing where it would. Collective.

    A communicator is revoked and shrunk, to see that it works.
    """
    if not MPI.Get_library_version().startswith("Open MPI v5"):
        return "this MPI library ends a job that loses a rank (Open MPI 5 need not)"
    if not survives():
        return "mpirun was started without --with-ft ulfm"
    trial = comm.Dup()
    comm.Barrier()  # all have it
    try:
        trial.Revoke()
        left = trial.Shrink()
        works = left.Get_size() == comm.Get_size()
        left.Free()
    except MPI.Exception as error:
        return f"MPI cannot go on without a rank ({error})"
    return "" if works else "MPI cannot go on without a rank"


def survives() -> bool:
    """Whether the launcher leaves the other ranks alive when one is gone."""
    return os.environ.get("OMPI_MCA_mpi_ft_enable") == "1"  # noqa: SIM112


def give_up(comm: "Communicator", where: str) -> None:
    """What a loss does to a communicator, without one that MPI has seen yet."""
    comm._engine.explain(LostRankError(where), where)


def kill_the_hung(comm: "Communicator") -> None:
    """From now on ranks that are stopped or hung are killed and count as lost (comm/flight)."""
    comm._flight.recovers()


def _give_up(rank: int, timeout: float) -> None:
    print(
        f"hpcpar: rank {rank} waited {timeout:g} s for the others that are left after a loss",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    os._exit(EXIT_HANG)
