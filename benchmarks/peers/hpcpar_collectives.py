"""hpcpar's collectives: the one that benchmarks/collectives.py is about.

    mpirun -n 4 python benchmarks/peers/hpcpar_collectives.py --operations allreduce --sizes 1048576

`--algorithm` forces one, `--symmetric` takes symmetric arrays (in place), `--device cuda` CuPy's.
"""

from functools import partial

import numpy as np
from measure import Array, Arrays, Call, LeftOut, arguments, main

import hpcpar


class DeviceArrays(Arrays):
    """Arrays on the communicator's device, symmetric ones if asked for."""

    def __init__(self, comm: hpcpar.Communicator, symmetric: bool) -> None:
        self.comm, self.symmetric = comm, symmetric

    def empty(self, count: int, dtype: np.dtype) -> Array:
        if self.symmetric and count:
            if not hasattr(self.comm, "symmetric"):
                raise LeftOut("this hpcpar has no symmetric arrays")
            return self.comm.symmetric((count,), dtype)
        return self.comm.device.xp.empty(count, dtype)

    def write(self, array: Array, values: np.ndarray) -> None:
        self._local(array)[...] = self.comm.device.asarray(values)

    def read(self, array: Array) -> np.ndarray:
        return hpcpar.device.to_host(self._local(array))

    def finish(self) -> None:
        self.comm.device.synchronize()

    def _local(self, array: Array) -> Array:
        return getattr(array, "local", array)


def prepare(
    comm: hpcpar.Communicator, algorithm: str, operation: str, x: Array, out: Array
) -> Call:
    """The call of an operation; it returns the array with the result."""
    chosen = {} if algorithm == "auto" else {"algorithm": algorithm}
    after, before = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    call: Call = {
        "allreduce": lambda: comm.allreduce(x, out=out, **chosen),
        "allreduce in place": lambda: comm.allreduce(x, out=x, **chosen),
        "bcast": lambda: comm.bcast(x, **chosen),
        "reduce": lambda: comm.reduce(x, out=out if comm.rank == 0 else None),
        "reduce_scatter": lambda: comm.reduce_scatter(x, out=out),
        "allgather": lambda: comm.allgather(x, out=out),
        "alltoall": lambda: comm.alltoall(x),
        "sendrecv": lambda: comm.sendrecv(x, after, out, before),
    }[operation]
    try:
        call()  # arguments are looked at before anything is sent, so all ranks raise or none
    except (TypeError, ValueError) as error:
        if "algorithm" not in str(error):
            raise
        raise LeftOut(f"{operation} by algorithm {algorithm}: {error}") from None
    return call


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--algorithm", default="auto")
    parser.add_argument("--symmetric", action="store_true")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    with hpcpar.Communicator(device=options.device) as comm:
        arrays = DeviceArrays(comm, options.symmetric)
        main(partial(prepare, comm, options.algorithm), parser, arrays)
