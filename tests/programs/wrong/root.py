"""Ranks that disagree on the root."""

import numpy as np
from programs.wrong.program import wrong

from hpcpar import Communicator


@wrong(3, "bcast #1: rank 1 has root 1 at {a} where ranks 0 and 2 have root 0 at {a}")
def bcast(comm: Communicator) -> None:
    comm.bcast(np.ones(4), root=1 if comm.rank == 1 else 0)  # a


@wrong(
    3,
    "bcast #1: rank 1 has root 1 at {a} and rank 2 has root 2 at {a} "
    "where rank 0 has root 0 at {a}",
)
def everybody_is_the_root(comm: Communicator) -> None:
    comm.bcast(np.ones(4), root=comm.rank)  # a


@wrong(2, "reduce #1: rank 1 has root 1 at {b} where rank 0 has root 0 at {a}")
def reduce(comm: Communicator) -> None:
    if comm.rank == 0:
        comm.reduce(np.ones(4))  # a
    else:
        comm.reduce(np.ones(4), root=1)  # b


@wrong(4, "gather #1: rank 0 has root 0 at {a} where ranks 1 to 3 have root 3 at {a}")
def gather(comm: Communicator) -> None:
    comm.gather(np.ones(4), root=3 if comm.rank else 0)  # a


@wrong(2, "scatter #1: rank 1 has root 1 at {a} where rank 0 has root 0 at {a}")
def two_give_a_scatter(comm: Communicator) -> None:
    comm.scatter(np.ones(4), root=comm.rank)  # a


@wrong(2, "scatter #1: rank 1 has root 0 at {a} where rank 0 has root 1 at {a}")
def nobody_gives_a_scatter(comm: Communicator) -> None:
    comm.scatter(None, root=1 - comm.rank)  # a
