"""Threads of the BLAS in each rank.

A BLAS library starts as many threads as the node has cores when it is loaded, in every rank. So
programs import this module before anything that imports NumPy: it tells the BLAS through the
environment, which only works before the library is loaded.
"""

import os
from collections.abc import Mapping

__all__ = ["limit_threads", "rank_threads"]


def rank_threads(wish: int = 0, environ: Mapping[str, str] = os.environ) -> int:
    """Threads of a rank: `wish` above 0, else OMP_NUM_THREADS, SLURM_CPUS_PER_TASK, or 1."""
    if wish > 0:
        return wish
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        value = environ.get(name, "").partition(",")[0]
        if value.isdigit() and int(value) > 0:
            return int(value)
    return 1


def limit_threads(threads: int) -> None:
    """Set the number of BLAS threads of this process from now on."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(threads, user_api="blas")


for _library in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"):
    os.environ.setdefault(_library, str(rank_threads()))
