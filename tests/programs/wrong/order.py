"""Ranks that make the same calls in different orders."""

import numpy as np
from programs.wrong.program import wrong

from hpcpar import Communicator


@wrong(2, "rank 1 is in allreduce #1 at {b} where rank 0 is in bcast #1 at {a}")
def two_collectives(comm: Communicator) -> None:
    x = np.ones(4)
    if comm.rank == 0:
        comm.bcast(x)  # a
        comm.allreduce(x)
    else:
        comm.allreduce(x)  # b
        comm.bcast(x)


@wrong(3, "rank 2 is in barrier #1 at {b} where ranks 0 and 1 are in allreduce #1 at {a}")
def two_that_are_only_started(comm: Communicator) -> None:
    if comm.rank < 2:
        first = comm.iallreduce(np.ones(4))  # a
        second = comm.ibarrier()
    else:
        first = comm.ibarrier()  # b
        second = comm.iallreduce(np.ones(4))
    try:
        second.wait()
    finally:
        first.wait()


@wrong(2, "allreduce #1: rank 1 has float64[7] at {b} where rank 0 has float64[3] at {a}")
def two_buckets(comm: Communicator) -> None:
    if comm.rank == 0:
        comm.allreduce(np.ones(3))  # a
        comm.allreduce(np.ones(7))
    else:
        comm.allreduce(np.ones(7))  # b
        comm.allreduce(np.ones(3))


@wrong(
    2,
    "message from rank 0 to rank 1 with tag 0: rank 0 sends 3 float64 at {a} "
    "where rank 1 receives 3 int64 at {b}",
)
def two_messages_of_one_tag(comm: Communicator) -> None:
    if comm.rank == 0:
        comm.send(np.ones(3), 1)  # a
        comm.send(np.ones(3, int), 1)
    else:
        comm.recv(np.ones(3, int), 0)  # b
        comm.recv(np.ones(3), 0)


@wrong(4, "rank 1 is in barrier #1 at {b} where rank 0 is in bcast #1 at {a}")
def in_both_halves(comm: Communicator) -> None:
    """Ranks 0 and 2 are a pair, ranks 1 and 3 another."""
    half = comm.split(comm.rank % 2)
    assert half is not None
    if comm.rank < 2:
        half.bcast(np.ones(4))  # a
    else:
        half.barrier()  # b
