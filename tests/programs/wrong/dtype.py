"""Ranks with arrays of different dtypes; where the bytes are as many, nothing else would notice."""

import ml_dtypes
import numpy as np
from programs.wrong.program import wrong

from hpcpar import Communicator


@wrong(4, "allreduce #1: rank 3 has float64[9] at {b} where ranks 0 to 2 have float32[9] at {a}")
def allreduce(comm: Communicator) -> None:
    if comm.rank < 3:
        comm.allreduce(np.ones(9, np.float32))  # a
    else:
        comm.allreduce(np.ones(9))  # b


@wrong(3, "allreduce #1: rank 0 has float16[9] at {a} where ranks 1 and 2 have bfloat16[9] at {a}")
def allreduce_of_two_half_precisions(comm: Communicator) -> None:
    comm.allreduce(np.ones(9, ml_dtypes.bfloat16 if comm.rank else np.float16))  # a


@wrong(2, "reduce #1: rank 1 has int32[4] at {a} where rank 0 has int64[4] at {a}")
def reduce(comm: Communicator) -> None:
    comm.reduce(np.ones(4, np.int32 if comm.rank else np.int64))  # a


@wrong(
    3,
    "reduce_scatter #1: rank 1 has complex64[6] at {a} where ranks 0 and 2 have float64[6] at {a}",
)
def reduce_scatter(comm: Communicator) -> None:
    comm.reduce_scatter(np.ones(6, np.complex64 if comm.rank == 1 else np.float64))  # a


@wrong(2, "bcast #1: rank 1 has int64[5] at {a} where rank 0 has float64[5] at {a}")
def bcast_of_as_many_bytes(comm: Communicator) -> None:
    comm.bcast(np.ones(5, np.int64 if comm.rank else np.float64))  # a


@wrong(4, "gather #1: ranks 1 and 3 have uint8[*] at {a} where ranks 0 and 2 have int8[*] at {a}")
def gather(comm: Communicator) -> None:
    comm.gather(np.ones(comm.rank, np.uint8 if comm.rank % 2 else np.int8))  # a


@wrong(
    3, "allgather #1: rank 2 has int32[*, 3] at {a} where ranks 0 and 1 have float32[*, 3] at {a}"
)
def allgather(comm: Communicator) -> None:
    comm.allgather(np.ones((2, 3), np.int32 if comm.rank == 2 else np.float32))  # a


@wrong(2, "alltoall #1: rank 1 has float32[*] at {a} where rank 0 has float64[*] at {a}")
def alltoall(comm: Communicator) -> None:
    comm.alltoall(np.ones(8, np.float32 if comm.rank else np.float64))  # a


@wrong(
    2,
    "message from rank 0 to rank 1 with tag 4: rank 0 sends 8 int32 at {a} "
    "where rank 1 receives 8 float32 at {b}",
)
def message_of_as_many_bytes(comm: Communicator) -> None:
    if comm.rank == 0:
        comm.send(np.ones(8, np.int32), 1, tag=4)  # a
    else:
        comm.recv(np.ones(8, np.float32), 0, tag=4)  # b


@wrong(2, "symmetric #1: rank 1 has float64[7] at {a} where rank 0 has float32[7] at {a}")
def symmetric(comm: Communicator) -> None:
    comm.symmetric(7, np.float64 if comm.rank else np.float32)  # a


@wrong(
    2,
    "message from rank 1 to rank 0 with tag 0: rank 1 sends 5 float32 at {a} "
    "where rank 0 receives 5 float64 at {a}",
)
def halo_exchange(comm: Communicator) -> None:
    """What rank 0 sends is well, and arrives."""
    kind, other, halo = np.float32 if comm.rank else np.float64, 1 - comm.rank, np.zeros(5)
    try:
        comm.sendrecv(np.ones(5, kind), other, halo, other)  # a
    finally:
        assert halo[0] == comm.rank
