"""What this machine does in a second, measured: for the choice of a grid, and for `explain`."""

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from hpcpar.comm.measure import measure_links
from hpcpar.comm.perform import wide_dtype
from hpcpar.linalg.local import product

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["Machine", "measure_machine"]

EXTENT = 512  # of the products that are timed
ROUNDS = 5
OVERHEAD = 60e-6  # seconds of Python for a panel


@dataclass(frozen=True)
class Machine:
    """Attributes, of one rank while all are at work: flops, floating-point operations a second in a
    product; copy, seconds a byte to copy memory; latency, seconds of a message; bandwidth, bytes a
    second of a large one; shared, whether operands are read where they lie.
    """

    flops: float
    copy: float
    latency: float
    bandwidth: float
    shared: bool


_known: dict[tuple[str, str, bool, int, int], Machine] = {}  # by what ranks have in common
_of: "WeakKeyDictionary[Communicator, dict[tuple[np.dtype, bool], Machine]]" = WeakKeyDictionary()
_FIGURES = ("flops", "copy", "latency", "bandwidth")


def measure_machine(comm: "Communicator", dtype: np.dtype, shared: bool) -> Machine:
    """Measured once for a dtype and a number of ranks, for a tenth of a second or two. Collective.

    Every rank gets the same: rank 0's, where all have measured before.
    """
    mine = _of.setdefault(comm, {})
    if (dtype, shared) in mine:  # on all ranks alike: a communicator's calls are
        return mine[dtype, shared]
    key = comm.device.kind, dtype.name, shared, comm.size, comm.nodes
    known = _known.get(key)
    figures = np.zeros(len(_FIGURES) + 1)
    if known is not None:
        figures[:-1] = [getattr(known, name) for name in _FIGURES]
        figures[-1] = 1
    if comm.allreduce(figures[-1:], "min")[0] == 0:
        links = measure_links(comm)
        link = links.between or links.inside
        latency, bandwidth = (link.latency, link.bandwidth) if link else (0.0, 1 / links.copy)
        seconds = comm.allreduce(np.array([_time_product(comm, dtype)]), "max")
        work = 2 * EXTENT**3 * (4 if dtype.kind == "c" else 1)
        figures[:-1] = work / float(seconds[0]), links.copy, latency, bandwidth
    comm.bcast(figures)
    flops, copy, latency, bandwidth = map(float, figures[:-1])
    _known[key] = Machine(flops, copy, latency, bandwidth, shared)
    mine[dtype, shared] = _known[key]
    return _known[key]


def _time_product(comm: "Communicator", dtype: np.dtype) -> float:
    xp = comm.device.xp
    a, b = xp.ones((EXTENT, EXTENT), dtype), xp.ones((EXTENT, EXTENT), dtype)
    out = xp.empty((EXTENT, EXTENT), wide_dtype(dtype))
    times = []
    comm.barrier()  # all at the same time, as in a product
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        product(a, b, out)
        comm.device.synchronize()
        times.append(time.perf_counter() - start)
    return median(times[1:])
