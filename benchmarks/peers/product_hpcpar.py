"""hpcpar.matmul for benchmarks/matmul.py: operands in the chosen grid's own layout, `out` given."""

import numpy as np
from product_cases import Case, arguments, block, residual, run

import hpcpar
from hpcpar.linalg import DistributedMatrix, from_function, matmul
from hpcpar.linalg.bounds import lower_bound
from hpcpar.linalg.choice import predicted_bytes


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--algorithm", default="auto")
    parser.add_argument("--grid", help="p,q,r")
    parser.add_argument("--tiles", help="m,n,k")
    parser.add_argument("--by-messages", action="store_true", help="operands in ordinary memory")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    with hpcpar.Communicator(device=options.device) as comm:
        mesh = hpcpar.Mesh(comm, rows=comm.size)
        grid = tuple(map(int, options.grid.split(","))) if options.grid else None
        tiles = tuple(map(int, options.tiles.split(","))) if options.tiles else None

        def prepare(case: Case):
            m, n, k = case
            dtype = np.dtype(options.dtype)
            how = {"algorithm": options.algorithm, "grid": grid, "tiles": tiles}
            # The grid is chosen on empty matrices, and the operands made where it wants them.
            trial = matmul(
                *(empty(mesh, shape, dtype, options) for shape in ((m, k), (k, n))), **how
            )
            plan = trial.report.cost.plan
            A = filled("A", mesh, (m, k), dtype, plan.a, options)
            B = filled("B", mesh, (k, n), dtype, plan.b, options)
            how["grid"] = plan.grid
            C = trial

            def call() -> None:
                matmul(A, B, out=C, **how)
                comm.barrier()

            def check() -> dict:
                size = dtype.itemsize
                measured = int(comm.allreduce(np.array([C.report.bytes]))[0])
                predicted = sum(predicted_bytes(A, B, plan, rank) for rank in range(comm.size))
                most = max(predicted_bytes(A, B, plan, rank) for rank in range(comm.size))
                return {
                    "grid": list(plan.grid), "words": most // size, "extra": C.report.cost.extra,
                    "words_measured": measured // size, "words_predicted": predicted // size,
                    "bound": lower_bound(m, n, k, comm.size),
                    "predicted_seconds": C.report.cost.seconds,
                    "residual": checked(A, B, C, case, dtype),
                }  # fmt: skip

            return call, check

        run(
            options, prepare, comm.barrier,
            lambda seconds: comm.allreduce(np.array(seconds), "max").tolist(), comm.rank == 0,
        )  # fmt: skip


def empty(mesh, shape, dtype, options) -> DistributedMatrix:
    return ordinary(DistributedMatrix.empty(mesh, shape, dtype, "rows"), options)


def filled(name, mesh, shape, dtype, layout, options) -> DistributedMatrix:
    xp = mesh.comm.device.xp

    def values(i, j):
        rows, columns = (
            v.ravel() if isinstance(v, np.ndarray) else v.get().ravel() for v in (i, j)
        )
        return xp.asarray(block(name, rows, columns, dtype))

    return ordinary(from_function(values, mesh, shape, dtype, layout), options)


def ordinary(matrix: DistributedMatrix, options) -> DistributedMatrix:
    """In memory of its own, where products by messages are asked for."""
    if not options.by_messages:
        return matrix
    return DistributedMatrix.from_local(
        matrix.mesh, matrix.local.copy(), matrix.shape, matrix.layout
    )


def checked(A, B, C, case, dtype) -> float:
    """The residual, from products with a vector in double precision."""
    x = np.random.default_rng(0).uniform(-1, 1, case[1])
    difference = times(C, x) - times(A, times(B, x))
    return residual(float(np.linalg.norm(difference)), case, dtype, float(np.linalg.norm(x)))


def times(matrix: DistributedMatrix, x: np.ndarray) -> np.ndarray:
    rows, columns = matrix.runs(matrix.comm.rank)
    total = np.zeros(matrix.shape[0])
    if rows and columns:
        mine = matrix.local if isinstance(matrix.local, np.ndarray) else matrix.local.get()
        part = np.concatenate([x[run.start : run.stop] for run in columns])
        found = np.concatenate(
            [mine[at : at + 512].astype("f8") @ part for at in range(0, len(mine), 512)]
        )
        at = 0
        for run in rows:
            total[run.start : run.stop] = found[at : at + len(run)]
            at += len(run)
    return matrix.comm.allreduce(total)


if __name__ == "__main__":
    main()
