"""A call that one rank refuses at once: it says why, and so do those that would wait for it."""

import numpy as np
from programs.wrong.program import wrong

from hpcpar import Communicator

GRID = np.zeros((4, 6))


@wrong(
    3,
    "rank 1 could not start allreduce #1: x is not C-contiguous; pass numpy.ascontiguousarray of "
    "it ({a})",
    {1: "ValueError: allreduce: x is not C-contiguous"},
)
def not_contiguous(comm: Communicator) -> None:
    comm.allreduce(GRID[:, ::2] if comm.rank == 1 else GRID[:, :3].copy())  # a


@wrong(
    3,
    "ranks 1 and 2 could not start bcast #1: x has dtype object; only arrays of numbers travel "
    "({a})",
    {rank: "TypeError: bcast: x has dtype object" for rank in (1, 2)},
)
def objects(comm: Communicator) -> None:
    comm.bcast(np.array([None]) if comm.rank else np.zeros(1))  # a


@wrong(
    2,
    "rank 0 could not start gather #1: x has dtype [('f0', '<i4'), ('f1', '<f8')]; only arrays of "
    "numbers travel ({a})",
    {0: "TypeError: gather: x has dtype"},
)
def structured(comm: Communicator) -> None:
    comm.gather(np.zeros(4) if comm.rank else np.zeros(4, "i4,f8"))  # a


@wrong(
    3,
    "rank 1 could not start bcast #1: root is 3; the ranks are 0 to 2 ({b})",
    {1: "ValueError: bcast: root is 3"},
)
def root_out_of_range(comm: Communicator) -> None:
    if comm.rank == 1:
        comm.bcast(np.ones(4), root=3)  # b
    else:
        comm.bcast(np.ones(4))


@wrong(
    2,
    "rank 0 could not start allreduce #1: out is float64[4], the result is float64[5] ({a})",
    {0: "ValueError: allreduce: out is float64[4]"},
)
def out_of_another_shape(comm: Communicator) -> None:
    comm.allreduce(np.ones(5), out=np.ones(5 if comm.rank else 4))  # a


@wrong(
    2,
    "rank 1 could not start reduce_scatter #1: out is float32[2], the result is float64[2] ({a})",
    {1: "ValueError: reduce_scatter: out is float32[2]"},
)
def out_of_another_dtype(comm: Communicator) -> None:
    comm.reduce_scatter(np.ones(4), out=np.ones(2, np.float32 if comm.rank else np.float64))  # a


@wrong(
    2,
    "rank 1 could not start bcast #1: x is read-only, and the result has to go there ({a})",
    {1: "ValueError: bcast: x is read-only"},
)
def read_only(comm: Communicator) -> None:
    x = np.ones(5)
    x.flags.writeable = False
    comm.bcast(x)  # a


@wrong(
    2,
    "rank 1 could not start allreduce #1: x and out overlap in part; pass out=x, or separate "
    "arrays ({b})",
    {1: "ValueError: allreduce: x and out overlap in part"},
)
def overlapping_in_part(comm: Communicator) -> None:
    x = np.ones(6)
    if comm.rank == 0:
        comm.allreduce(x[:4], out=np.ones(4))
    else:
        comm.allreduce(x[:4], out=x[2:])  # b


@wrong(
    2,
    "rank 1 could not start reduce #1: op is 'prod'; it must be one of sum, mean, max, min ({a})",
    {1: "ValueError: reduce: op is 'prod'"},
)
def unknown_op(comm: Communicator) -> None:
    comm.reduce(np.ones(4), op="prod" if comm.rank else "sum")  # a


@wrong(
    3,
    "rank 2 could not start allreduce #1: no mean in dtype int64; pass floating-point numbers "
    "({a})",
    {2: "TypeError: allreduce: no mean in dtype int64"},
)
def mean_of_integers(comm: Communicator) -> None:
    comm.allreduce(np.ones(4, np.int64 if comm.rank == 2 else np.float64), op="mean")  # a


@wrong(
    2,
    "rank 1 could not start allgather #1: list is no array: give a NumPy or CuPy array, or one "
    "with DLPack ({a})",
    {1: "TypeError: list is no array"},
)
def a_list(comm: Communicator) -> None:
    comm.allgather([1.0] if comm.rank else np.ones(1))  # a


@wrong(
    2,
    "rank 1 could not start alltoall #1: Movement.alltoall() missing 1 required positional "
    "argument: 'x' ({a})",
    {1: "TypeError: Movement.alltoall() missing 1 required positional argument: 'x'"},
)
def no_argument(comm: Communicator) -> None:
    comm.alltoall(*[np.ones(4)][comm.rank :])  # a


@wrong(
    3,
    "rank 0 could not start scatter #1: x is None on the root, which has to give the array ({a})",
    {0: "ValueError: scatter: x is None on the root"},
)
def nothing_to_scatter(comm: Communicator) -> None:
    comm.scatter(None)  # a


@wrong(
    2,
    "rank 1 could not start split #1: color is -1; it must be None or a number from 0 ({a})",
    {1: "ValueError: split: color is -1"},
)
def color_below_zero(comm: Communicator) -> None:
    comm.split(-comm.rank)  # a


@wrong(
    2,
    "rank 1 could not start symmetric #1: shape is [-4]; extents are not negative ({a})",
    {1: "ValueError: symmetric: shape is [-4]"},
)
def symmetric_of_negative_extent(comm: Communicator) -> None:
    comm.symmetric(-4 if comm.rank else 4)  # a


@wrong(
    2,
    "message from rank 0 to rank 1 with tag 2: rank 0 could not start send: x is not C-contiguous; "
    "pass numpy.ascontiguousarray of it ({a})",
    {0: "ValueError: send: x is not C-contiguous"},
)
def sending_what_is_not_contiguous(comm: Communicator) -> None:
    if comm.rank == 0:
        comm.send(GRID[:, 0], 1, 2)  # a
    else:
        comm.recv(np.zeros(4), 0, 2)


@wrong(
    2,
    "message from rank 1 to rank 0 with tag 0: rank 0 could not start recv: out has dtype >f8; "
    "convert it to native byte order ({a})",
    {0: "TypeError: recv: out has dtype >f8"},
)
def receiving_in_foreign_byte_order(comm: Communicator) -> None:
    if comm.rank == 0:
        comm.recv(np.zeros(4, ">f8"), source=1)  # a
    else:
        comm.send(np.zeros(4), dest=0)
