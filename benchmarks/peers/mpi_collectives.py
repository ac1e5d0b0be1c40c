"""MPI's own collectives, through mpi4py: a competitor of benchmarks/collectives.py.

Which MPI it is depends on the Python that runs this; which algorithm, on Open MPI's variables.
`copy` is no collective: every rank copies x to out, all at the same time. It is the limit of an
allreduce on one node, which reads every input and writes every result at least once.
"""

import numpy as np
from measure import Array, Call, arguments, main
from mpi4py import MPI


def prepare(operation: str, x: Array, out: Array) -> Call:
    """The call of an operation; it returns the array with the result."""
    world = MPI.COMM_WORLD
    after, before = (world.rank + 1) % world.size, (world.rank - 1) % world.size
    calls = {
        "allreduce": lambda: world.Allreduce(x, out),
        "allreduce in place": lambda: world.Allreduce(MPI.IN_PLACE, x),
        "bcast": lambda: world.Bcast(x),
        "reduce": lambda: world.Reduce(x, out if world.rank == 0 else None),
        "reduce_scatter": lambda: world.Reduce_scatter_block(x, out),
        "allgather": lambda: world.Allgather(x, out),
        "alltoall": lambda: world.Alltoall(x, out),
        "sendrecv": lambda: world.Sendrecv(x, after, recvbuf=out, source=before),
        "copy": lambda: np.copyto(out, x),
    }
    call, result = calls[operation], out if len(out) else x

    def timed() -> Array:
        call()
        return result

    return timed


if __name__ == "__main__":
    main(prepare, arguments(__doc__))
