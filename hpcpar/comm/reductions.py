"""Collectives that compute: allreduce, reduce, reduce_scatter."""

from collections.abc import Callable
from functools import partial
from math import prod

import numpy as np
from mpi4py import MPI

from hpcpar.comm.arguments import ALGORITHMS, check_rank, overlap, reduction, result
from hpcpar.comm.core import Core
from hpcpar.comm.perform import divide
from hpcpar.comm.request import Call, Request, Work
from hpcpar.comm.small import is_small
from hpcpar.comm.symmetric import Symmetric
from hpcpar.device import Array
from hpcpar.schedule import collectives as schedules
from hpcpar.schedule.exchange import split
from hpcpar.schedule.one_shot import one_shot_allreduce
from hpcpar.schedule.shared import shared_allreduce
from hpcpar.schedule.steps import Step

__all__ = ["Reductions"]

ONE_SHOT_BYTES = 1 << 15  # of a symmetric array: up to here every rank adds up everything
BLOCK_BYTES = 1 << 17  # of symmetric arrays in one addition: in and out fit a level-2 cache


class Reductions(Core):
    """Every operation has an i- form, whose `Request` has the same result.

    `x` has the same shape and dtype on every rank; `op` is sum, mean (of floating-point numbers),
    max or min (not of complex numbers). All add in the order of the tree over the ranks, left +
    right, except for the algorithms ring and mpi. Wrong arguments raise ValueError or TypeError.
    """

    def allreduce(
        self, x: Array, op: str = "sum", out: Array | None = None, algorithm: str = "auto"
    ) -> Array:
        """The reduction of all ranks' `x` on every rank, with the same bits on each.

        Args:
            x: any shape.
            op: sum, mean, max or min.
            out: where the result goes, instead of a new array; `out=x` works in place.
            algorithm: auto; halving (a power of two of ranks) and direct, which have the same bits;
                ring (Patarasuk and Yuan 2009); mpi, the library's own MPI_Iallreduce.
        """
        if algorithm == "auto" and type(x) is np.ndarray:
            done = self._small(x, op, out)
            if done is not None:
                return done
        return self.iallreduce(x, op, out, algorithm).wait()

    def iallreduce(
        self, x: Array, op: str = "sum", out: Array | None = None, algorithm: str = "auto"
    ) -> Request:
        """`allreduce`, only started."""
        source = self._operand("allreduce", "x", x)
        ufunc = reduction("allreduce", op, source)
        if algorithm not in ALGORITHMS:
            known = ", ".join(ALGORITHMS)
            raise ValueError(f"allreduce: algorithm is {algorithm!r}; it must be one of {known}")
        target = result("allreduce", source, source.shape, out)
        in_place = out is not None and overlap("allreduce", source, target)
        finish = self._finish(op, target)
        given = target if out is None else out
        if isinstance(x, Symmetric) and algorithm in ("auto", "symmetric"):
            shared = self._in_place(x, source, out, target)
            if shared is not None:
                return self._start(
                    "allreduce", lambda call: self._shared(call, *shared, ufunc, finish, given),
                    x=x, op=op, algorithm=algorithm,
                )  # fmt: skip
        if algorithm == "symmetric":
            raise ValueError(
                "allreduce: algorithm symmetric takes x=comm.symmetric(...) on one node, and out=x "
                "or another symmetric array"
            )
        if algorithm == "mpi":
            begin = self._library_call(source, target, op, in_place)
            return self._start(
                "allreduce", lambda call: _library(begin, finish, given), x=source, op=op,
                algorithm=algorithm,
            )  # fmt: skip
        name = "out" if in_place else "x"
        if algorithm == "auto" and is_small(source.nbytes, self.size):
            steps = one_shot_allreduce(self.rank, self.size, source.size, name)
            if isinstance(source, np.ndarray) and self._guard is None:
                self._small.learn(source, op)
        else:
            segment = self._segment(source)
            steps = schedules.allreduce(
                self.rank, self.size, source.size, algorithm, name, segment=segment
            )
        buffers = {"out": target, name: source}

        def work(call: Call) -> Work:
            yield from self._perform(call, steps, buffers, ufunc, finish=finish)
            return given

        return self._start("allreduce", work, x=source, op=op, algorithm=algorithm)

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
        buffers, finish, given = {"x": source}, None, None
        if self.rank == root:
            target = buffers["out"] = result("reduce", source, source.shape, out)
            overlap("reduce", source, target)
            finish = self._finish(op, target)
            given = target if out is None else out
        segment = self._segment(source)
        steps = schedules.reduce(self.rank, self.size, source.size, root, segment=segment)

        def work(call: Call) -> Work:
            yield from self._perform(call, steps, buffers, ufunc, finish=finish)
            return given

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
        segment = self._segment(source)
        steps = schedules.reduce_scatter(self.rank, self.size, counts, segment=segment)
        buffers, finish = {"x": source, "out": target}, self._finish(op, target)

        def work(call: Call) -> Work:
            yield from self._perform(call, steps, buffers, ufunc, finish=finish)
            return target if out is None else out

        return self._start("reduce_scatter", work, x=source, op=op)

    def _in_place(
        self, x: Symmetric, source: Array, out: object, target: Array
    ) -> tuple[tuple[Step, ...], dict[str, Array | Symmetric]] | None:
        """The schedule that reads the peers' memory, and its arrays; None where there is none."""
        if not x.complete:
            return None
        symmetric = isinstance(out, Symmetric) and out.complete
        one_shot = source.nbytes <= ONE_SHOT_BYTES or (not symmetric and self.size <= 4)
        if not (symmetric or one_shot):
            return None
        name = "x" if target is source else "out"
        steps = shared_allreduce(
            self.rank, self.size, source.size, "x", name,
            block=max(1, BLOCK_BYTES // source.itemsize), one_shot=one_shot,
        )  # fmt: skip
        arrays: dict[str, Array | Symmetric] = {"x": x}
        if name == "out":
            arrays["out"] = out if isinstance(out, Symmetric) else target
        return steps, arrays

    def _shared(
        self,
        call: Call,
        steps: tuple[Step, ...],
        arrays: dict[str, Array | Symmetric],
        ufunc: str,
        finish: Callable[[], object] | None,
        given: object,
    ) -> Work:
        yield from self._perform(call, steps, arrays, ufunc, finish=finish)
        return given

    def _finish(self, op: str, target: Array) -> Callable[[], object] | None:
        return partial(divide, target, self.size) if op == "mean" else None

    def _library_call(
        self, source: Array, target: Array, op: str, in_place: bool
    ) -> Callable[[], MPI.Request]:
        """MPI's own allreduce, ready to be started."""
        if not isinstance(source, np.ndarray):
            raise ValueError("allreduce: algorithm mpi takes host arrays only; take auto")
        kind = MPI.DATATYPE_NULL
        if source.dtype.kind in "iufc":
            try:
                kind = MPI.Datatype.fromcode(source.dtype.char)
            except ValueError:
                kind = MPI.DATATYPE_NULL
        if kind == MPI.DATATYPE_NULL:
            raise TypeError(f"allreduce: MPI cannot reduce dtype {source.dtype}; take auto")
        operation = {"max": MPI.MAX, "min": MPI.MIN}.get(op, MPI.SUM)
        sent = MPI.IN_PLACE if in_place else (source, source.size, kind)
        arrives = (target, target.size, kind)
        return lambda: self._collective.Iallreduce(sent, arrives, operation)


def _library(
    begin: Callable[[], MPI.Request], finish: Callable[[], object] | None, given: Array
) -> Work:
    try:
        request = begin()
    except MPI.Exception as error:
        if error.Get_error_class() != MPI.ERR_OP:
            raise
        raise TypeError(f"allreduce: MPI cannot reduce dtype {given.dtype}; take auto") from None
    while not request.Test():
        yield
    if finish is not None:
        finish()
    return given
