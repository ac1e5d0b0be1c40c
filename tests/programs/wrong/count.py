"""Ranks with arrays of different sizes, or of as many elements in other shapes."""

import numpy as np
from programs.wrong.program import wrong

from hpcpar import Communicator


@wrong(
    3, "allreduce #1: rank 1 has float64[101] at {a} where ranks 0 and 2 have float64[100] at {a}"
)
def allreduce(comm: Communicator) -> None:
    comm.allreduce(np.ones(101 if comm.rank == 1 else 100))  # a


@wrong(2, "allreduce #1: rank 1 has float64[3, 2] at {a} where rank 0 has float64[2, 3] at {a}")
def allreduce_of_as_many_elements(comm: Communicator) -> None:
    comm.allreduce(np.ones((3, 2) if comm.rank else (2, 3)))  # a


@wrong(
    4,
    "allreduce #1: rank 1 has float64[1] at {a} and rank 2 has float64[2] at {a} and "
    "rank 3 has float64[3] at {a} where rank 0 has float64[0] at {a}",
)
def allreduce_of_what_each_has(comm: Communicator) -> None:
    comm.allreduce(np.ones(comm.rank))  # a


@wrong(2, "bcast #1: rank 1 has float64[10] at {b} where rank 0 has float64[20] at {a}")
def bcast(comm: Communicator) -> None:
    if comm.rank == 0:
        comm.bcast(np.ones(20))  # a
    else:
        comm.bcast(np.empty(10))  # b


@wrong(3, "reduce #1: rank 2 has float64[0] at {a} where ranks 0 and 1 have float64[5] at {a}")
def reduce_of_nothing(comm: Communicator) -> None:
    comm.reduce(np.ones(0 if comm.rank == 2 else 5))  # a


@wrong(2, "reduce_scatter #1: rank 1 has float64[6] at {a} where rank 0 has float64[8] at {a}")
def reduce_scatter(comm: Communicator) -> None:
    comm.reduce_scatter(np.ones(6 if comm.rank else 8))  # a


@wrong(
    3, "gather #1: rank 0 has float64[*, 4] at {a} where ranks 1 and 2 have float64[*, 5] at {a}"
)
def gather_of_other_columns(comm: Communicator) -> None:
    comm.gather(np.ones((comm.rank + 1, 5 if comm.rank else 4)))  # a


@wrong(2, "allgather #1: rank 1 has float64[] at {a} where rank 0 has float64[*] at {a}")
def allgather_of_a_scalar(comm: Communicator) -> None:
    comm.allgather(np.ones(() if comm.rank else 1))  # a


@wrong(2, "alltoall #1: rank 1 has float64[*, 1] at {a} where rank 0 has float64[*] at {a}")
def alltoall_of_other_axes(comm: Communicator) -> None:
    comm.alltoall(np.ones((4, 1) if comm.rank else 4))  # a


@wrong(
    2,
    "message from rank 0 to rank 1 with tag 0: rank 0 sends 9 float64 at {a} "
    "where rank 1 receives 8 float64 at {b}",
)
def message_too_long(comm: Communicator) -> None:
    if comm.rank == 0:
        comm.send(np.ones(9), 1)  # a
    else:
        comm.recv(np.ones(8), 0)  # b


@wrong(
    2,
    "message from rank 1 to rank 0 with tag 0: rank 1 sends 0 float64 at {b} "
    "where rank 0 receives 8 float64 at {a}",
)
def message_of_nothing(comm: Communicator) -> None:
    if comm.rank == 0:
        comm.recv(np.ones(8), 1)  # a
    else:
        comm.send(np.ones(0), 0)  # b


@wrong(3, "symmetric #1: rank 2 has float32[4] at {a} where ranks 0 and 1 have float32[3] at {a}")
def symmetric(comm: Communicator) -> None:
    comm.symmetric(4 if comm.rank == 2 else 3)  # a


@wrong(
    2,
    "allreduce #*: rank 1 has float32[4] of symmetric array #1 from byte 8 at {a} "
    "where rank 0 has float32[4] of symmetric array #1 at {a}",
)
def another_part_of_a_symmetric_array(comm: Communicator) -> None:
    s = comm.symmetric(6)
    comm.allreduce(s[2:] if comm.rank else s[:4])  # a
