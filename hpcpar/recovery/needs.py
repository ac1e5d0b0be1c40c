"""What --recovery asks for must be there: an MPI that outlives ranks, or a launcher."""

import os
from typing import TYPE_CHECKING

from hpcpar.comm import agree
from hpcpar.comm.lost import can_lose_ranks, kill_the_hung
from hpcpar.errors import UserError
from hpcpar.launch import LAUNCHED

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["check_needs"]


def check_needs(recovery: str, comm: "Communicator") -> str | None:
    """The name that a launcher has given to all jobs of this run; None without one. Collective.

    Raises `UserError` where this MPI, or who has started it, cannot do what is asked for.
    """
    if recovery == "shrink" and comm.size > 1:
        if problem := can_lose_ranks(comm.mpi):
            raise UserError(
                f"--recovery shrink: {problem}; start with mpirun --with-ft ulfm, "
                "or take --recovery none"
            )
        kill_the_hung(comm)
    job = agree(comm, os.environ.get(LAUNCHED))[0]
    if recovery == "relaunch" and not job:
        raise UserError(
            "--recovery relaunch: nobody would start this run again; start it with "
            "python -m hpcpar launch, or take --recovery none"
        )
    return job
