"""Ranks that are in different operations, or do another thing in the same."""

import numpy as np
from programs.wrong.program import wrong

from hpcpar import Communicator
from hpcpar.schedule.collectives import barrier


@wrong(3, "rank 2 is in bcast #1 at {b} where ranks 0 and 1 are in allreduce #1 at {a}")
def bcast_for_allreduce(comm: Communicator) -> None:
    if comm.rank < 2:
        comm.allreduce(np.ones(4))  # a
    else:
        comm.bcast(np.ones(4))  # b


@wrong(2, "rank 1 is in allgather #1 at {b} where rank 0 is in gather #1 at {a}")
def allgather_for_gather(comm: Communicator) -> None:
    if comm.rank == 0:
        comm.gather(np.ones(4))  # a
    else:
        comm.allgather(np.ones(4))  # b


@wrong(4, "rank 0 is in reduce #1 at {a} where ranks 1 to 3 are in allreduce #1 at {b}")
def reduce_on_the_root_only(comm: Communicator) -> None:
    if comm.rank == 0:
        comm.reduce(np.ones(4))  # a
    else:
        comm.allreduce(np.ones(4))  # b


@wrong(2, "rank 1 is in bcast #1 at {b} where rank 0 is in scatter #1 at {a}")
def bcast_for_scatter(comm: Communicator) -> None:
    if comm.rank == 0:
        comm.scatter(np.ones(4))  # a
    else:
        comm.bcast(np.ones(4))  # b


@wrong(
    3,
    "rank 1 is in reduce_scatter #1 at {b} and rank 2 is in alltoall #1 at {c} "
    "where rank 0 is in barrier #1 at {a}",
)
def three_operations(comm: Communicator) -> None:
    if comm.rank == 0:
        comm.barrier()  # a
    elif comm.rank == 1:
        comm.reduce_scatter(np.ones(4))  # b
    else:
        comm.alltoall(np.ones(4))  # c


@wrong(3, "allreduce #1: rank 1 has op max at {a} where ranks 0 and 2 have op sum at {a}")
def max_for_sum(comm: Communicator) -> None:
    comm.allreduce(np.ones(4), op="max" if comm.rank == 1 else "sum")  # a


@wrong(2, "reduce #1: rank 1 has op mean at {b} where rank 0 has op sum at {a}")
def mean_for_sum(comm: Communicator) -> None:
    if comm.rank == 0:
        comm.reduce(np.ones(4))  # a
    else:
        comm.reduce(np.ones(4), op="mean")  # b


@wrong(2, "allreduce #1: rank 1 has algorithm ring at {a} where rank 0 has algorithm auto at {a}")
def another_algorithm(comm: Communicator) -> None:
    comm.allreduce(np.ones(4), algorithm="ring" if comm.rank else "auto")  # a


@wrong(3, "rank 0 is in symmetric #1 at {a} where ranks 1 and 2 are in barrier #1 at {b}")
def symmetric_on_one_rank(comm: Communicator) -> None:
    if comm.rank == 0:
        comm.symmetric(100)  # a
    else:
        comm.barrier()  # b


@wrong(3, "rank 2 is in barrier #1 at {b} where ranks 0 and 1 are in split #1 at {a}")
def split_without_one(comm: Communicator) -> None:
    if comm.rank < 2:
        comm.split(0)  # a
    else:
        comm.barrier()  # b


@wrong(2, "rank 1 is in inner #1 at {a} where rank 0 is in outer #1 at {a}")
def two_schedules(comm: Communicator) -> None:
    steps = barrier(comm.rank, comm.size)
    comm.run(steps, {"x": np.zeros(2)}, name="inner" if comm.rank else "outer")  # a


@wrong(
    2,
    "allreduce #*: rank 1 has out of its own at {a} "
    "where rank 0 has out float32[100] of symmetric array #1 at {a}",
)
def in_place_on_one_rank(comm: Communicator) -> None:
    s = comm.symmetric(100)
    comm.allreduce(s, out=None if comm.rank else s)  # a
