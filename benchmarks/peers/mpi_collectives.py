"""MPI's own collectives, through mpi4py: a competitor of benchmarks/collectives.py.

Which MPI it is depends on the Python that runs this; which algorithm, on Open MPI's variables.
`copy` is no collective: every rank copies x to out, or in place reads and writes x, and waits for
the others. It is the limit of an allreduce on one node, which reads every input and writes every
result at least once, and ends on no rank before it has begun on all.
"""

import numpy as np
from measure import Array, Call, arguments, main
from mpi4py import MPI


def prepare(operation: str, x: Array, out: Array) -> Call:
    """The call of an operation; it returns the array with the result."""
    world = MPI.COMM_WORLD
    after, before = (world.rank + 1) % world.size, (world.rank - 1) % world.size

    def copy(source: Array, target: Array) -> None:
        np.add(source, 0, out=target) if source is target else np.copyto(target, source)
        world.Barrier()

    calls = {
        "allreduce": lambda: world.Allreduce(x, out),
        "allreduce in place": lambda: world.Allreduce(MPI.IN_PLACE, x),
        "bcast": lambda: world.Bcast(x),
        "reduce": lambda: world.Reduce(x, out if world.rank == 0 else None),
        "reduce_scatter": lambda: world.Reduce_scatter_block(x, out),
        "allgather": lambda: world.Allgather(x, out),
        "alltoall": lambda: world.Alltoall(x, out),
        "sendrecv": lambda: world.Sendrecv(x, after, recvbuf=out, source=before),
        "copy": lambda: copy(x, out),
        "copy in place": lambda: copy(x, x),
    }
    call, result = calls[operation], out if len(out) else x

    def timed() -> Array:
        call()
        return result

    return timed


if __name__ == "__main__":
    main(prepare, arguments(__doc__))
