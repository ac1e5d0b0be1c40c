"""pylops-mpi's SUMMA for benchmarks/matmul.py: it takes a square number of ranks."""

import numpy as np
import pylops_mpi
from mpi4py import MPI
from product_cases import Case, arguments, block, residual, run
from pylops_mpi.basicoperators.MatrixMult import MPIMatrixMult, local_block_split


def main() -> None:
    options = arguments(__doc__).parse_args()
    world, dtype = MPI.COMM_WORLD, np.dtype(options.dtype)

    def prepare(case: Case):
        m, n, k = case
        part_a, part_b = (
            local_block_split((m, k), world.rank, world),
            local_block_split((k, n), world.rank, world),
        )
        a = block("A", *spans(part_a, (m, k)), dtype)
        b = block("B", *spans(part_b, (k, n)), dtype)
        operator = MPIMatrixMult(a, n, base_comm=world, kind="summa", dtype=dtype)
        x = pylops_mpi.DistributedArray(
            global_shape=k * n, local_shapes=world.allgather(b.size), base_comm=world, dtype=dtype
        )
        x.local_array[:] = b.ravel()
        landing = []

        def call() -> None:
            landing[:] = [operator @ x]
            world.Barrier()

        def check() -> dict:
            rows, columns = spans(local_block_split((m, n), world.rank, world), (m, n))
            c = np.zeros((m, n), dtype)
            c[rows.start : rows.stop, columns.start : columns.stop] = landing[
                0
            ].local_array.reshape(len(rows), len(columns))
            world.Allreduce(MPI.IN_PLACE, c)
            vector = np.random.default_rng(0).uniform(-1, 1, n)
            a, b = block("A", range(m), range(k), dtype), block("B", range(k), range(n), dtype)
            difference = c.astype("f8") @ vector - a.astype("f8") @ (b.astype("f8") @ vector)
            size = float(np.linalg.norm(vector))
            return {"residual": residual(float(np.linalg.norm(difference)), case, dtype, size)}

        return call, check

    run(
        options, prepare, world.Barrier,
        lambda seconds: np.max(world.allgather(seconds), axis=0).tolist(), world.rank == 0,
    )  # fmt: skip


def spans(part: tuple[slice, slice], shape: tuple[int, int]) -> tuple[range, range]:
    return tuple(range(extent)[cut] for cut, extent in zip(part, shape, strict=True))


if __name__ == "__main__":
    main()
