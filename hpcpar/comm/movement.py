"""Collectives that only move: bcast, gather, scatter, allgather, alltoall, barrier."""

from math import prod

import numpy as np

from hpcpar.comm.arguments import check_rank, overlap, result
from hpcpar.comm.core import Core
from hpcpar.comm.headers import HEADER, joined, pack, unpack
from hpcpar.comm.request import Call, Request, Work
from hpcpar.comm.symmetric import Symmetric
from hpcpar.device import Array
from hpcpar.schedule import collectives as schedules
from hpcpar.schedule.exchange import split
from hpcpar.schedule.shared import shared_allgather, shared_bcast

__all__ = ["Movement"]


class Movement(Core):
    """Every operation has an i- form, whose `Request` has the same result.

    Where lengths may differ, the ranks first tell each other their shapes and dtypes, 128 bytes a
    rank; arrays that do not fit together raise the same ValueError on every rank.
    """

    def bcast(self, x: Array, root: int = 0, algorithm: str = "auto") -> Array:
        """Fill `x` with the root's and return it; same shape and dtype everywhere.

        `algorithm` is auto, tree (binomial), chain (piece by piece from rank to rank) or
        hierarchical (once to every node).
        """
        return self.ibcast(x, root, algorithm).wait()

    def ibcast(self, x: Array, root: int = 0, algorithm: str = "auto") -> Request:
        """`bcast`, only started."""
        root = check_rank("bcast", "root", root, self.size)
        array = self._operand("bcast", "x", x, writable=self.rank != root)
        segment = self._segment(array)
        if algorithm == "auto" and not self._reaches_all(x):
            algorithm = self._selection.choose("bcast", array.nbytes)
        source: Array | Symmetric = array
        if algorithm == "auto" and self._reaches_all(x):
            steps, source = shared_bcast(self.rank, self.size, array.size, root), x
        else:
            steps = schedules.bcast(
                self.rank, self.size, array.size, root, algorithm, segment=segment,
                nodes=self.node_map,
            )  # fmt: skip

        def work(call: Call) -> Work:
            yield from self._perform(call, steps, {"x": source})
            return x

        return self._start("bcast", work, x=source, root=root, algorithm=algorithm)

    def gather(self, x: Array, root: int = 0) -> Array | None:
        """All ranks' arrays joined along axis 0 on the root, None elsewhere; lengths may differ."""
        return self.igather(x, root).wait()

    def igather(self, x: Array, root: int = 0) -> Request:
        """`gather`, only started."""
        root = check_rank("gather", "root", root, self.size)
        array = self._operand("gather", "x", x)
        mine = pack(array)

        def work(call: Call) -> Work:
            headers = yield from self._headers(call, mine)
            rows = joined("gather", headers)
            counts = _counts(rows, array)
            buffers, target = {"x": array}, None
            if self.rank == root:
                shape = (sum(rows), *array.shape[1:])
                target = buffers["out"] = result("gather", array, shape, None)
            segment = self._segment(array)
            steps = schedules.gather(self.rank, self.size, counts, root, segment=segment)
            yield from self._perform(call, steps, buffers)
            return target

        return self._start("gather", work, x=array, root=root)

    def scatter(self, x: Array | None, root: int = 0) -> Array:
        """This rank's part of the root's `x`, split along axis 0; x is None off the root.

        Rank r gets rows numpy.array_split(rows, size)[r]; shape, dtype and whether it lies on a GPU
        travel.
        """
        return self.iscatter(x, root).wait()

    def iscatter(self, x: Array | None, root: int = 0) -> Request:
        """`scatter`, only started."""
        root = check_rank("scatter", "root", root, self.size)
        source, header = None, np.empty(HEADER, np.uint8)
        if self.rank == root:
            if x is None:
                raise ValueError("scatter: x is None on the root, which has to give the array")
            source = self._operand("scatter", "x", x)
            if source.ndim == 0:
                raise ValueError("scatter: x has no axis to split")
            header = pack(source)

        def work(call: Call) -> Work:
            steps = schedules.bcast(self.rank, self.size, HEADER, root)
            yield from self._perform(call, steps, {"x": header})
            dtype, shape, gpu, _ = unpack(header)
            rows = [len(run) for run in split(shape[0], self.size)]
            xp = self.device.xp if gpu else np
            part = xp.empty((rows[self.rank], *shape[1:]), np.dtype(dtype))
            counts = _counts(rows, part)
            buffers = {"out": part} if source is None else {"x": source, "out": part}
            segment = self._segment(part)
            steps = schedules.scatter(self.rank, self.size, counts, root, segment=segment)
            yield from self._perform(call, steps, buffers)
            return part

        return self._start("scatter", work, root=root)

    def allgather(self, x: Array, out: Array | None = None) -> Array:
        """All ranks' arrays joined along axis 0, on every rank. Lengths may differ."""
        return self.iallgather(x, out).wait()

    def iallgather(self, x: Array, out: Array | None = None) -> Request:
        """`allgather`, only started."""
        array = self._operand("allgather", "x", x)
        target, room = None, -1
        if out is not None and array.ndim:
            room = (*self._operand("allgather", "out", out).shape, 0)[0]
            target = result("allgather", array, (room, *array.shape[1:]), out)
            if self.size > 1:
                overlap("allgather", array, target)
        mine = pack(array, room)

        def work(call: Call) -> Work:
            headers = yield from self._headers(call, mine)
            rows = joined("allgather", headers)
            counts = _counts(rows, array)
            landing = target
            if landing is None:
                landing = result("allgather", array, (sum(rows), *array.shape[1:]), None)
            segment = self._segment(array)
            if self._reaches_all(x):
                steps = shared_allgather(self.rank, self.size, counts)
                yield from self._perform(call, steps, {"x": x, "out": landing})
            else:
                steps = schedules.allgather(
                    self.rank, self.size, counts, segment=segment, nodes=self.node_map
                )
                yield from self._perform(call, steps, {"x": array, "out": landing})
            return landing if out is None else out

        return self._start("allgather", work, x=x)

    def alltoall(self, x: Array) -> Array:
        """Part j of `x`, split along axis 0, goes to rank j; what came, joined along axis 0.

        The parts are numpy.array_split's; the ranks' lengths may differ.
        """
        return self.ialltoall(x).wait()

    def ialltoall(self, x: Array) -> Request:
        """`alltoall`, only started."""
        array = self._operand("alltoall", "x", x)
        mine = pack(array)

        def work(call: Call) -> Work:
            headers = yield from self._headers(call, mine)
            parts = [split(rows, self.size) for rows in joined("alltoall", headers)]
            leaving = _counts([len(run) for run in parts[self.rank]], array)
            rows = [len(runs[self.rank]) for runs in parts]
            target = result("alltoall", array, (sum(rows), *array.shape[1:]), None)
            arriving, segment = _counts(rows, array), self._segment(array)
            steps = schedules.alltoall(self.rank, self.size, leaving, arriving, segment=segment)
            yield from self._perform(call, steps, {"x": array, "out": target})
            return target

        return self._start("alltoall", work, x=array)

    def barrier(self) -> None:
        """Go on when all ranks have come."""
        self.ibarrier().wait()

    def ibarrier(self) -> Request:
        """`barrier`, only started: done when all ranks have started it."""
        tokens = np.zeros(self.size.bit_length() + 1, np.uint8)
        steps = schedules.barrier(self.rank, self.size)
        return self._start("barrier", lambda call: self._perform(call, steps, {"x": tokens}))

    def _headers(self, call: Call, mine: np.ndarray) -> Work:
        """All ranks' headers, inside an operation."""
        table = np.empty((self.size, HEADER), np.uint8)
        steps = schedules.allgather(self.rank, self.size, (HEADER,) * self.size)
        yield from self._perform(call, steps, {"x": mine, "out": table})
        return [unpack(row) for row in table]


def _counts(rows: list[int], array: Array) -> tuple[int, ...]:
    """Elements of so many rows each."""
    row = prod(array.shape[1:])
    return tuple(length * row for length in rows)
