"""A vote: what all ranks say yes to. It also finds ranks that are gone, on all others alike."""

import math
from typing import TYPE_CHECKING

import numpy as np
from mpi4py import MPI

from hpcpar.comm.aside import Aside
from hpcpar.comm.lost import is_loss
from hpcpar.errors import LostRankError

if TYPE_CHECKING:
    from hpcpar.comm.communicator import Communicator

__all__ = ["HERE", "veto", "vote"]

HERE = 1  # a rank that has come as far as all others; every question has a bit above it


def vote(comm: "Communicator", answers: int, survives: bool, spare: bool = False) -> int:
    """The bits that are set in every rank's `answers`, with HERE set. Collective.

    With `survives` it is uniform (Bland et al., IJHPCA 2013): a rank that is gone before the end of
    the vote raises `LostRankError` on all ranks that are left, or on none of them. A `spare` rank
    has nothing to do between votes: it leaves its core to the others, and waits as long as they
    work, which have limits of their own.
    """
    if not survives:
        bits = np.array([answers >> place & 1 for place in range(16)], np.int64)
        return sum(int(bit) << place for place, bit in enumerate(comm.allreduce(bits, "min")))
    common = np.array([answers | HERE], np.intc)
    try:
        _agree(comm.mpi, math.inf if spare else comm.timeout, common, idle=spare)
        if not common[0] & HERE:
            raise LostRankError("others have found that a rank is gone")
    except (MPI.Exception, LostRankError) as error:
        if not is_loss(error):
            raise
        raise comm._engine.explain(error, f"{comm._who}, vote") from error
    return int(common[0])


def veto(mpi_comm: MPI.Comm, timeout: float) -> None:
    """Take part in the vote that others may wait in, with a no to everything; then nobody waits.

    For ranks that have found a loss elsewhere. All ranks that are left hold as many votes.
    """
    try:
        _agree(mpi_comm, timeout, np.zeros(1, np.intc))
    except MPI.Exception as error:
        if not is_loss(error):
            raise


def _agree(mpi_comm: MPI.Comm, timeout: float, word: np.ndarray, idle: bool = False) -> None:
    """The bits that are set on all ranks, in `word`: it works on revoked communicators too."""
    aside = Aside(mpi_comm, timeout, "vote")
    (aside.rest if idle else aside.finish)(mpi_comm.Iagree(word).Test)
