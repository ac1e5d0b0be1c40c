"""How every competitor of benchmarks/collectives.py is timed: the same loop for all.

A competitor's program is a rank under mpirun. It hands `main` a function that prepares a case:
given arrays x and out, it returns the call to be timed, which returns the array with the result.
Before every call all of x and out is written anew; then comes a barrier of MPI; the time of a call
is that of the rank which took longest. At the end the last result is compared with what it must be,
outside the timed part.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from mpi4py import MPI

__all__ = ["OPERATIONS", "Array", "Arrays", "Call", "LeftOut", "arguments", "main", "nodes"]

Array = Any  # a numpy.ndarray, or the competitor's own kind
Call = Callable[[], Array]
Prepare = Callable[[str, Array, Array], Call]

# Elements of x and of out, for the largest array of an operation on so many ranks. In place and for
# bcast, x is also where the result goes.
OPERATIONS: dict[str, Callable[[int, int], tuple[int, int]]] = {
    "allreduce": lambda count, ranks: (count, count),
    "allreduce in place": lambda count, ranks: (count, 0),
    "bcast": lambda count, ranks: (count, 0),
    "reduce": lambda count, ranks: (count, count),
    "reduce_scatter": lambda count, ranks: (count, count // ranks),
    "allgather": lambda count, ranks: (count // ranks, count),
    "alltoall": lambda count, ranks: (count, count),
    "sendrecv": lambda count, ranks: (count, count),
    "copy": lambda count, ranks: (count, count),
    "copy in place": lambda count, ranks: (count, 0),
}


class LeftOut(Exception):
    """The competitor has no such operation; the text says what."""


class Arrays:
    """Where the arrays of a competitor come from: NumPy's, unless it is on a GPU."""

    def empty(self, count: int, dtype: np.dtype) -> Array:
        """An array to be used as x or out."""
        return np.empty(count, dtype)

    def write(self, array: Array, values: np.ndarray) -> None:
        """Write all elements."""
        array[...] = values

    def read(self, array: Array) -> np.ndarray:
        """The elements, on the host."""
        return np.asarray(array)

    def finish(self) -> None:
        """Wait until the result of a call is there."""


def main(prepare: Prepare, parser: argparse.ArgumentParser, arrays: Arrays | None = None) -> None:
    """Time the cases of the command line; rank 0 prints a JSON line for each."""
    arrays = arrays or Arrays()
    options = parser.parse_args()
    world = MPI.COMM_WORLD
    for operation in options.operations:
        for size in options.sizes:
            try:
                row = measure(prepare, arrays, operation, size, options)
            except LeftOut as reason:
                row = {"left_out": str(reason)}
            if world.rank == 0:
                print(json.dumps(row), flush=True)
            if "left_out" in row:
                break


def arguments(description: str) -> argparse.ArgumentParser:
    """The command line of every competitor."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--operations", nargs="+", choices=OPERATIONS, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", required=True, help="bytes")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--calls", type=int, help="that count; by size if not given")
    parser.add_argument("--pause", type=float, default=0, help="seconds before each call")
    return parser


def measure(
    prepare: Prepare, arrays: Arrays, operation: str, size: int, options: argparse.Namespace
) -> dict[str, Any]:
    """One case: the median time of its calls, and how many elements were wrong on all ranks."""
    world, dtype = MPI.COMM_WORLD, np.dtype(options.dtype)
    count = -(-size // (dtype.itemsize * world.size)) * world.size  # what all ranks can share
    lengths = OPERATIONS[operation](count, world.size)
    x, out = (arrays.empty(length, dtype) for length in lengths)
    source = pattern(world.rank, 0, lengths[0], dtype)
    call = prepare(operation, x, out)
    seconds = []
    for _ in range(1 + (options.calls or calls_for(count * dtype.itemsize))):
        arrays.write(x, source)
        arrays.write(out, np.zeros(1, dtype))
        arrays.finish()
        time.sleep(options.pause)
        world.Barrier()
        began = time.perf_counter()
        result = call()
        arrays.finish()
        seconds.append(time.perf_counter() - began)
    slowest = np.empty(len(seconds))
    world.Allreduce(np.array(seconds), slowest, MPI.MAX)
    wrong = np.zeros(1, np.int64)
    if operation != "reduce" or world.rank == 0:
        target = expected(operation, count, dtype, world.rank, world.size)
        wrong[0] = np.count_nonzero(arrays.read(result) != target)
    world.Allreduce(MPI.IN_PLACE, wrong)
    return {
        "nodes": nodes(),
        "operation": operation,
        "size": count * dtype.itemsize,
        "count": count,
        "dtype": dtype.name,
        "seconds": statistics.median(slowest[1:].tolist()),  # the first call warms up
        "wrong": int(wrong[0]),
    }


@cache
def nodes() -> int:
    """On how many nodes the ranks are."""
    world = MPI.COMM_WORLD
    first = world.Split_type(MPI.COMM_TYPE_SHARED).rank == 0
    return int(world.allreduce(int(first)))


def calls_for(size: int) -> int:
    """Calls that count, so that a launch takes a few seconds."""
    return next(calls for limit, calls in CALLS if size <= limit)


CALLS = ((1 << 12, 200), (1 << 18, 50), (1 << 22, 15), (1 << 62, 5))


def pattern(rank: int, start: int, stop: int, dtype: np.dtype) -> np.ndarray:
    """What a rank brings at start..stop: whole numbers so small that every dtype has their sums."""
    return (np.arange(start, stop) % 31 + rank).astype(dtype)


def expected(operation: str, count: int, dtype: np.dtype, rank: int, ranks: int) -> np.ndarray:
    """The result of an operation on a rank."""
    part = count // ranks
    mine = range(rank * part, (rank + 1) * part)
    if operation == "allgather":
        return np.concatenate([pattern(other, 0, part, dtype) for other in range(ranks)])
    if operation == "alltoall":
        parts = [pattern(other, mine.start, mine.stop, dtype) for other in range(ranks)]
        return np.concatenate(parts)
    if operation == "reduce_scatter":
        parts = [pattern(other, mine.start, mine.stop, dtype) for other in range(ranks)]
        return np.sum(parts, axis=0, dtype=dtype)
    origins = {"bcast": 0, "sendrecv": (rank - 1) % ranks, "copy": rank, "copy in place": rank}
    if operation in origins:
        return pattern(origins[operation], 0, count, dtype)
    return np.sum([pattern(other, 0, count, dtype) for other in range(ranks)], 0, dtype)
