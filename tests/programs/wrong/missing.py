"""A rank that leaves a call out; what it calls next, or its close, gives it away."""

import numpy as np
from programs.wrong.program import wrong

from hpcpar import Communicator


@wrong(3, "rank 2 is in allreduce #1 at {b} where ranks 0 and 1 are in bcast #1 at {a}")
def a_bcast(comm: Communicator) -> None:
    x = np.ones(4)
    if comm.rank != 2:
        comm.bcast(x)  # a
    comm.allreduce(x)  # b


@wrong(3, "rank 0 is in gather #1 at {a} where ranks 1 and 2 are in barrier #1 at {b}")
def called_by_the_root_only(comm: Communicator) -> None:
    if comm.rank == 0:
        comm.gather(np.ones(4))  # a
    comm.barrier()  # b


@wrong(2, "rank 1 is in close #4 at {b} where rank 0 is in allreduce #4 at {a}")
def the_last_turn_of_a_loop(comm: Communicator) -> None:
    for _ in range(4 - comm.rank):
        comm.allreduce(np.ones(4))  # a
    comm.close()  # b


@wrong(4, "rank 3 is in bcast #3 at {b} where ranks 0 to 2 are in allreduce #3 at {a}")
def a_turn_with_no_data(comm: Communicator) -> None:
    """The rank whose data has ended goes on to what comes after the loop."""
    for step in range(3):
        if comm.rank == 3 and step == 2:
            break
        comm.allreduce(np.ones(4))  # a
    comm.bcast(np.ones(4))  # b


@wrong(2, "rank 1 is in barrier #1 at {a} where rank 0 is in close #1 at {b}")
def everything(comm: Communicator) -> None:
    if comm.rank == 1:
        comm.barrier()  # a
    comm.close()  # b


@wrong(2, "allreduce #1: rank 1 has float64[2] at {b} where rank 0 has float64[1] at {a}")
def a_call_among_its_like(comm: Communicator) -> None:
    if comm.rank == 0:
        comm.allreduce(np.ones(1))  # a
    comm.allreduce(np.ones(2))  # b
