"""ScaLAPACK's p?gemm for benchmarks/matmul.py, called through ctypes; MPI is the library's own.

Run it under the mpirun of the MPI library that ScaLAPACK was built with. Blocks are of one size;
the grid is as square as it can be. Ranks exchange their times and what checks the result through
files, since no MPI of Python's fits that library.
"""

import ctypes
import os
from ctypes import byref, c_char, c_int
from math import isqrt
from pathlib import Path

import numpy as np
from product_cases import Case, arguments, block, residual, run

ROUTINES = {"float32": ("psgemm_", ctypes.c_float), "float64": ("pdgemm_", ctypes.c_double)}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--library", required=True)
    parser.add_argument("--block", type=int, default=256)
    parser.add_argument("--folder", type=Path, required=True, help="for what ranks tell each other")
    options = parser.parse_args()
    grid = Grid(options.library)
    name, number = ROUTINES[options.dtype]
    routine = getattr(grid.library, name)
    one, zero, ia, n_char = number(1), number(0), c_int(1), c_char(b"N")
    told = iter(range(10**6))

    def exchange(values: np.ndarray) -> list[np.ndarray]:
        turn = next(told)
        np.save(options.folder / f"{turn}-{grid.rank}.npy", values)
        grid.barrier()
        return [np.load(options.folder / f"{turn}-{rank}.npy") for rank in range(grid.size)]

    def prepare(case: Case):
        m, n, k = case
        a, b, c = (Matrix(grid, shape, options) for shape in ((m, k), (k, n), (m, n)))
        a.local[...] = block("A", a.rows, a.columns, options.dtype)
        b.local[...] = block("B", b.rows, b.columns, options.dtype)

        def call() -> None:
            routine(
                byref(n_char), byref(n_char), byref(c_int(m)), byref(c_int(n)), byref(c_int(k)),
                byref(one), a.pointer, byref(ia), byref(ia), a.descriptor,
                b.pointer, byref(ia), byref(ia), b.descriptor,
                byref(zero), c.pointer, byref(ia), byref(ia), c.descriptor,
            )  # fmt: skip
            grid.barrier()

        def times(matrix: Matrix, x: np.ndarray) -> np.ndarray:
            total = np.zeros(matrix.shape[0])
            part = x[matrix.columns]
            for at in range(0, len(matrix.rows), 512):
                rows = matrix.rows[at : at + 512]
                total[rows] = matrix.local[at : at + 512].astype("f8") @ part
            return np.sum(exchange(total), axis=0)

        def check() -> dict:
            x = np.random.default_rng(0).uniform(-1, 1, n)
            difference = np.linalg.norm(times(c, x) - times(a, times(b, x)))
            size = float(np.linalg.norm(x))
            return {
                "block": options.block,
                "residual": residual(float(difference), case, options.dtype, size),
            }

        return call, check

    run(
        options, prepare, grid.barrier,
        lambda seconds: np.max(exchange(np.array(seconds)), axis=0).tolist(), grid.rank == 0,
    )  # fmt: skip
    grid.barrier()
    grid.library.Cblacs_exit(c_int(0))


class Grid:
    """A grid of the library's processes."""

    def __init__(self, library: str) -> None:
        self.library = ctypes.CDLL(library, mode=os.RTLD_GLOBAL | os.RTLD_NOW)
        rank, size, self.context = c_int(), c_int(), c_int()
        self.library.Cblacs_pinfo(byref(rank), byref(size))
        self.rank, self.size = rank.value, size.value
        self.down = max(d for d in range(1, isqrt(self.size) + 1) if self.size % d == 0)
        self.across = self.size // self.down
        self.library.Cblacs_get(c_int(-1), c_int(0), byref(self.context))
        self.library.Cblacs_gridinit(
            byref(self.context), b"Row", c_int(self.down), c_int(self.across)
        )
        self.row, self.column = divmod(self.rank, self.across)

    def barrier(self) -> None:
        """Wait for all."""
        self.library.Cblacs_barrier(self.context, b"All")


class Matrix:
    """A block-cyclic matrix."""

    def __init__(self, grid: Grid, shape: tuple[int, int], options) -> None:
        self.shape, size = shape, options.block
        self.rows = dealt(shape[0], size, grid.row, grid.down)
        self.columns = dealt(shape[1], size, grid.column, grid.across)
        self.local = np.zeros((len(self.rows), len(self.columns)), options.dtype, order="F")
        self.pointer = self.local.ctypes.data_as(ctypes.c_void_p)
        self.descriptor = (c_int * 9)()
        status = c_int()
        grid.library.descinit_(
            self.descriptor, byref(c_int(shape[0])), byref(c_int(shape[1])), byref(c_int(size)),
            byref(c_int(size)), byref(c_int(0)), byref(c_int(0)), byref(grid.context),
            byref(c_int(max(1, len(self.rows)))), byref(status),
        )  # fmt: skip
        assert status.value == 0, status.value


def dealt(extent: int, size: int, place: int, places: int) -> np.ndarray:
    """The indices of every `places`-th block."""
    indices = np.arange(extent)
    return indices[indices // size % places == place]


if __name__ == "__main__":
    main()
