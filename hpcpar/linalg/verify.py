"""`verify=True`: is C really A B? In O(n^2), and the rank whose block is wrong is named.

For a vector x of random signs, C x is compared with A (B x): Freivalds, "Fast probabilistic
algorithms" (1979). Each set of columns that some rank holds of C has its own part of x, so a block
is compared by itself. A block that is wrong by more than rounding passes with a probability of at
most one half in each row; differences within the bound of rounding errors cannot be seen.
"""

from math import sqrt

import ml_dtypes
import numpy as np

from hpcpar.comm import agree
from hpcpar.comm.perform import wide_dtype
from hpcpar.device import Array, namespace
from hpcpar.linalg.layout import Runs
from hpcpar.linalg.matrix import DistributedMatrix
from hpcpar.linalg.parts import SLICE
from hpcpar.rng import generator

__all__ = ["Check"]

SLACK = 8  # times the expected rounding error, which grows with the square root of the terms


class Check:
    """What the blocks of alpha A @ B + beta C have to fit to; made before C is written."""

    def __init__(
        self,
        A: DistributedMatrix,
        B: DistributedMatrix,
        C: DistributedMatrix,
        alpha: complex,
        beta: complex,
    ) -> None:
        """Collective."""
        self.C, self.comm = C, C.comm
        groups = {C.runs(rank)[1]: None for rank in range(self.comm.size)}
        self.groups: list[Runs] = [group for group in groups if group]
        kind = np.dtype(np.complex128 if A.dtype.kind == "c" else np.float64)
        self.xp = self.comm.device.xp
        signs = generator(0, "verify").integers(0, 2, C.shape[1]) * 2.0 - 1
        self.x = self.xp.asarray(signs)
        spread = self.xp.zeros((C.shape[1], len(self.groups)))
        for number, group in enumerate(self.groups):
            for run in group:
                spread[run.start : run.stop, number] = self.x[run.start : run.stop]
        inner = self._times(B, spread.astype(kind), absolute=False)
        self.wanted = self._times(A, inner, absolute=False)
        self.wanted *= alpha
        inner = self._times(B, self.xp.abs(spread), absolute=True)
        self.scale = self._times(A, inner, absolute=True)
        self.scale *= abs(alpha)
        if beta != 0:
            self.wanted += self._times(C, spread.astype(kind), absolute=False) * beta
            self.scale += self._times(C, self.xp.abs(spread), absolute=True) * abs(beta)
        terms = sqrt(max(1, A.shape[1]))
        self.share = SLACK * (_epsilon(A.dtype) + _epsilon(wide_dtype(A.dtype)) * terms)
        # What is lost where products or the result are too small to be held.
        self.floor = SLACK * (A.shape[1] + 1) * C.shape[1] * _smallest(A.dtype) * max(1, abs(alpha))
        self.most = _largest(A.dtype)

    def run(self) -> None:
        """Compare. Collective; raises ArithmeticError on every rank."""
        rows, columns = self.C.runs(self.comm.rank)
        problem = None
        if rows and columns:
            mine = self.C.block(self.comm.rank)
            x = self.xp.concatenate([self.x[run.start : run.stop] for run in columns])
            got = _product(mine, x[:, None], self.wanted.dtype)[:, 0]
            number = self.groups.index(columns)
            places = self.xp.concatenate([self.xp.arange(run.start, run.stop) for run in rows])
            wanted, scale = self.wanted[places, number], self.scale[places, number]
            off = self.xp.abs(got - wanted)
            wrong = ~(off <= self.share * scale + self.floor)  # NaN is wrong too
            wrong &= self.xp.isfinite(wanted) & (scale <= self.most)  # it can be told
            if bool(wrong.any()):
                first = int(places[int(self.xp.argmax(wrong))])
                problem = f"{int(wrong.sum())} rows, the first is row {first} of C"
        for rank, words in enumerate(agree(self.comm, problem)):
            if words is not None:
                raise ArithmeticError(f"matmul: verify: the block of rank {rank} is wrong: {words}")

    def _times(self, matrix: DistributedMatrix, x: Array, absolute: bool) -> Array:
        """matrix @ x on every rank, in double precision; of absolute values if `absolute`."""
        total = self.xp.zeros((matrix.shape[0], x.shape[1]), x.dtype)
        rank = self.comm.rank
        mine = matrix.runs(rank)
        first = next(r for r in range(self.comm.size) if matrix.runs(r) == mine)
        if first == rank and all(mine):  # of copies, one counts
            taken = self.xp.concatenate([x[run.start : run.stop] for run in mine[1]])
            found = _product(matrix.block(rank), taken, x.dtype, absolute, matrix.conjugated)
            at = 0
            for run in mine[0]:
                total[run.start : run.stop] = found[at : at + len(run)]
                at += len(run)
        if total.size:
            self.comm.allreduce(total, out=total)
        return total


def _product(
    block: Array, x: Array, kind: np.dtype, absolute: bool = False, conjugated: bool = False
) -> Array:
    """block @ x, or of the block's absolute values or conjugates, some rows at a time."""
    xp = namespace(block)
    out = xp.empty((len(block), x.shape[1]), kind)
    step = max(1, SLICE // max(1, block.shape[1]))
    for start in range(0, len(block), step):
        part = block[start : start + step]
        part = (xp.abs(part) if absolute else part).astype(kind)
        if conjugated and not absolute:
            xp.conj(part, out=part)
        out[start : start + step] = part @ x
    return out


def _smallest(dtype: np.dtype) -> float:
    return float(ml_dtypes.finfo(dtype).smallest_subnormal)


def _largest(dtype: np.dtype) -> float:
    return float(ml_dtypes.finfo(dtype).max)


def _epsilon(dtype: np.dtype) -> float:
    return float(ml_dtypes.finfo(dtype).eps)
