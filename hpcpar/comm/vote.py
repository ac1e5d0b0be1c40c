"""A vote: what all ranks say yes to. It also finds ranks that are gone, on all others alike."""

import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from mpi4py import MPI

from hpcpar.comm.aside import Aside
from hpcpar.comm.lost import is_loss
from hpcpar.comm.request import Call, Work
from hpcpar.errors import LostRankError

if TYPE_CHECKING:
    from hpcpar.comm.communicator import Communicator

__all__ = ["HERE", "veto", "vote"]

_NAP = 5e-4  # seconds
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
    request = comm._start("vote", partial(_agree, comm.mpi, common))
    while spare and not request.test():
        time.sleep(_NAP)
    request.wait()
    if not common[0] & HERE:
        lost = LostRankError("others have found that a rank is gone")
        raise comm._engine.explain(lost, f"{comm._who}, vote")
    return int(common[0])


def veto(mpi_comm: MPI.Comm, timeout: float) -> None:
    """Take part in the vote that others may wait in, with a no to everything; then nobody waits.

    For ranks that have found a loss elsewhere. All ranks that are left hold as many votes.
    """
    try:
        Aside(mpi_comm, timeout, "vote").finish(mpi_comm.Iagree(np.zeros(1, np.intc)).Test)
    except MPI.Exception as error:
        if not is_loss(error):
            raise


def _agree(mpi_comm: MPI.Comm, word: np.ndarray, _: Call) -> Work:
    """The bits that are set on all ranks, in `word`: it works on revoked communicators too."""
    request = mpi_comm.Iagree(word)
    while not request.Test():
        yield
