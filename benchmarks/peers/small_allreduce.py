"""Small arrays: hpcpar's allreduce and MPI_Allreduce in one launch, in alternating blocks of calls.

    mpirun -n 2 python benchmarks/peers/small_allreduce.py --sizes 8 4096

Every call is timed by itself; a figure is the median of all calls of a kind, of the rank where it
is larger. Prints a JSON line for each size.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from mpi4py import MPI

import hpcpar

BLOCK = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", required=True, help="bytes")
    parser.add_argument("--calls", type=int, default=2000, help="of each kind")
    options = parser.parse_args()
    world = MPI.COMM_WORLD
    with hpcpar.Communicator(device="cpu") as comm:
        for size in options.sizes:
            x = np.full(size // 4, 1 + world.rank, np.float32)
            ours, theirs = np.zeros_like(x), np.zeros_like(x)
            calls: dict[str, Callable[[], object]] = {
                "hpcpar": partial(comm.allreduce, x, out=ours),
                "MPI": partial(world.Allreduce, x, theirs),
            }
            medians = {
                name: world.allreduce(seconds, MPI.MAX)
                for name, seconds in alternate(calls, options.calls).items()
            }
            total = world.size * (world.size + 1) // 2
            wrong = world.allreduce(int(np.count_nonzero([ours != total, theirs != total])))
            if world.rank == 0:
                print(json.dumps({"size": size, "seconds": medians, "wrong": wrong}), flush=True)


def alternate(calls: dict[str, Callable[[], object]], count: int) -> dict[str, float]:
    """The median seconds of `count` calls of each kind, after one block that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(1 + -(-count // BLOCK)):
        for name, call in calls.items():
            MPI.COMM_WORLD.Barrier()
            for _ in range(BLOCK):
                began = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values[BLOCK:]) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
