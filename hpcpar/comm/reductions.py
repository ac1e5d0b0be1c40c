"""reduce and reduce_scatter: sums that not everybody gets, or not the whole of."""

from math import prod

from hpcpar.comm.allreduce import BLOCK_BYTES, Allreduce
from hpcpar.comm.arguments import check_rank, overlap, reduction, result
from hpcpar.comm.request import Request
from hpcpar.comm.widening import ending, narrowed, widens
from hpcpar.device import Array
from hpcpar.schedule import collectives as schedules
from hpcpar.schedule.exchange import split
from hpcpar.schedule.groups import consecutive
from hpcpar.schedule.shared import shared_reduce_scatter

__all__ = ["Reductions"]


class Reductions(Allreduce):
    """Every operation has an i- form, whose `Request` has the same result.

    `x` has the same shape and dtype on every rank; `op` is sum, mean (of floating-point numbers),
    max or min (not of complex numbers). All add in the order of the tree over the ranks, left +
    right, except for the algorithms ring and mpi. 16-bit floating-point numbers are summed in
    float32 and rounded at the end. Wrong arguments raise ValueError or TypeError.
    """

    def reduce(
        self, x: Array, root: int = 0, op: str = "sum", out: Array | None = None
    ) -> Array | None:
        """As `allreduce`, on the root alone: the result there, None elsewhere. Same bits."""
        return self.ireduce(x, root, op, out).wait()

    def ireduce(
        self, x: Array, root: int = 0, op: str = "sum", out: Array | None = None
    ) -> Request:
        """`reduce`, only started."""
        source = self._operand("reduce", "x", x)
        ufunc = reduction("reduce", op, source)
        root = check_rank("reduce", "root", root, self.size)
        segment = self._segment(source)
        steps = schedules.reduce(self.rank, self.size, source.size, root, segment=segment)
        if self.rank == root:
            target = result("reduce", source, source.shape, out)
            overlap("reduce", source, target)
            added, landing, finish = narrowed(source, target, op, self.size)
            buffers, given = {"x": added, "out": landing}, target if out is None else out
        else:
            added, _, _ = narrowed(source, source, op, self.size)
            buffers, given, finish = {"x": added}, None, None
        work = self._finished(steps, buffers, ufunc, finish, given)
        return self._start("reduce", work, x=source, op=op, root=root)

    def reduce_scatter(self, x: Array, op: str = "sum", out: Array | None = None) -> Array:
        """This rank's part of the reduction, split along axis 0: the bits of `allreduce`.

        Rank r gets rows numpy.array_split(rows, size)[r].
        """
        return self.ireduce_scatter(x, op, out).wait()

    def ireduce_scatter(self, x: Array, op: str = "sum", out: Array | None = None) -> Request:
        """`reduce_scatter`, only started."""
        source = self._operand("reduce_scatter", "x", x)
        ufunc = reduction("reduce_scatter", op, source)
        if source.ndim == 0:
            raise ValueError("reduce_scatter: x has no axis to split")
        rows = [len(run) for run in split(len(source), self.size)]
        row = prod(source.shape[1:])
        counts = tuple(length * row for length in rows)
        shape = (rows[self.rank], *source.shape[1:])
        target = result("reduce_scatter", source, shape, out)
        if overlap("reduce_scatter", source, target) and self.size > 1:
            raise ValueError("reduce_scatter: x and out overlap; pass separate arrays")
        wide = op == "mean" and widens(source.dtype, op, self.size)
        if self._reaches_all(x) and not wide:
            finish = ending(op, target, self.size)
            block = max(1, BLOCK_BYTES // source.itemsize)
            steps = shared_reduce_scatter(self.rank, self.size, counts, "x", block=block)
            buffers = {"x": x, "out": target}
        else:
            added, landing, finish = narrowed(source, target, op, self.size, apart=True)
            segment = self._segment(source)
            nodes = self.node_map if self.node_map and consecutive(self.node_map) else None
            steps = schedules.reduce_scatter(
                self.rank, self.size, counts, segment=segment, nodes=nodes
            )
            buffers = {"x": added, "out": landing}
        given = target if out is None else out
        work = self._finished(steps, buffers, ufunc, finish, given)
        return self._start("reduce_scatter", work, x=x, op=op)
