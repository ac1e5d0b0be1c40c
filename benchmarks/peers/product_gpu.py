"""One GPU alone for benchmarks/matmul.py: CuPy, or nvmath-python's cuBLASLt."""

import cupy
import numpy as np
from product_cases import Case, arguments, block, residual, run


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--library", choices=("cupy", "nvmath"), default="cupy")
    options = parser.parse_args()
    dtype = np.dtype(options.dtype)

    def prepare(case: Case):
        m, n, k = case
        a = cupy.asarray(block("A", range(m), range(k), dtype))
        b = cupy.asarray(block("B", range(k), range(n), dtype))
        c = cupy.empty((m, n), dtype)

        if options.library == "nvmath":
            from nvmath.linalg.advanced import Matmul

            planned = Matmul(a, b)
            planned.plan()

            def call() -> None:
                nonlocal c
                c = planned.execute()
                cupy.cuda.get_current_stream().synchronize()
        else:

            def call() -> None:
                cupy.matmul(a, b, out=c)
                cupy.cuda.get_current_stream().synchronize()

        def check() -> dict:
            x = cupy.asarray(np.random.default_rng(0).uniform(-1, 1, n))
            wide = [matrix.astype("f8") for matrix in (a, b, c)]
            difference = cupy.linalg.norm(wide[2] @ x - wide[0] @ (wide[1] @ x))
            return {
                "residual": residual(float(difference), case, dtype, float(cupy.linalg.norm(x)))
            }

        return call, check

    run(options, prepare, lambda: None, list, first=True)


if __name__ == "__main__":
    main()
