"""One process of NumPy for benchmarks/matmul.py, with as many threads as it is given."""

import numpy as np
from product_cases import Case, arguments, block, residual, run


def main() -> None:
    options = arguments(__doc__).parse_args()
    dtype = np.dtype(options.dtype)

    def prepare(case: Case):
        m, n, k = case
        a, b = block("A", range(m), range(k), dtype), block("B", range(k), range(n), dtype)
        c = np.empty((m, n), dtype)

        def check() -> dict:
            x = np.random.default_rng(0).uniform(-1, 1, n)
            difference = np.linalg.norm(times(c, x) - times(a, times(b, x)))
            return {"residual": residual(float(difference), case, dtype, float(np.linalg.norm(x)))}

        return lambda: np.matmul(a, b, out=c), check

    run(options, prepare, lambda: None, list, first=True)


def times(matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
    """matrix @ x in double precision."""
    parts = (matrix[at : at + 512].astype("f8") @ x for at in range(0, len(matrix), 512))
    return np.concatenate(list(parts))


if __name__ == "__main__":
    main()
