"""How every competitor of benchmarks/matmul.py is timed: the same cases, the same loop, for all.

A competitor hands `run` a function that prepares a case and returns the call to be timed and what
checks its result: the norm of (C - A B) x for a random x, computed in double precision.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

import numpy as np

__all__ = ["Case", "arguments", "block", "residual", "run"]

Case = tuple[int, int, int]  # m, n, k
Prepared = tuple[Callable[[], object], Callable[[], dict[str, Any]]]


def arguments(description: str) -> argparse.ArgumentParser:
    """The command line of every competitor."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--cases", nargs="+", required=True, help="m,n,k")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--calls", type=int, default=3, help="that count, after one that does not")
    return parser


def block(name: str, rows: Any, columns: Any, dtype: Any) -> np.ndarray:
    """These rows and columns of the matrix with this name, from -1 to 1, the same for everybody."""
    factor = np.uint32({"A": 2654435761, "B": 1013904223}[name])
    i = np.asarray(rows, np.uint32)[:, None] * factor
    j = np.asarray(columns, np.uint32)[None, :] * np.uint32(40503)
    bits = i ^ j
    bits ^= bits >> np.uint32(15)
    bits *= np.uint32(2246822519)
    bits ^= bits >> np.uint32(13)
    return (bits.astype(np.float32) / np.float32(2**31) - 1).astype(dtype)


def residual(difference: float, case: Case, dtype: Any, x: float) -> float:
    """|(C - A B) x| over sqrt(k) |A| |B| |x| eps, as SLATE's tester scales it; below 3 is well.

    The entries are spread evenly over -1 to 1, so the norms of A and B are known.
    """
    m, n, k = case
    norms = sqrt(m * k / 3) * sqrt(k * n / 3)
    return difference / (sqrt(k) * norms * x * float(np.finfo(dtype).eps))


def run(
    options: argparse.Namespace,
    prepare: Callable[[Case], Prepared],
    barrier: Callable[[], object],
    slowest: Callable[[Sequence[float]], list[float]],
    first: bool,
) -> None:
    """Time the cases; the first rank prints a JSON line for each."""
    for text in options.cases:
        m, n, k = map(int, text.split(","))
        call, check = prepare((m, n, k))
        seconds = []
        for _ in range(1 + options.calls):
            barrier()
            began = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - began)
        times, facts = slowest(seconds)[1:], check()
        if first:
            print(json.dumps({"case": [m, n, k], "seconds": times, **facts}), flush=True)
