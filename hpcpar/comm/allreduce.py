"""allreduce: the collective that training stands on, and the ways it can go."""

from collections.abc import Callable

import numpy as np
from mpi4py import MPI
from numpy import ndarray

from hpcpar.comm.arguments import ALGORITHMS, overlap, reduction, result
from hpcpar.comm.core import Core
from hpcpar.comm.remote import Remote
from hpcpar.comm.request import Call, Request, Work
from hpcpar.comm.selection import LARGE
from hpcpar.comm.small import is_small
from hpcpar.comm.symmetric import Symmetric
from hpcpar.comm.widening import ending, narrowed, widens
from hpcpar.device import Array, address
from hpcpar.schedule import collectives as schedules
from hpcpar.schedule.one_shot import one_shot_allreduce
from hpcpar.schedule.shared import fetching_allreduce, shared_allreduce
from hpcpar.schedule.steps import Step

__all__ = ["BLOCK_BYTES", "Allreduce"]

ONE_SHOT_BYTES = 1 << 15  # of a symmetric array: up to here every rank adds up everything
BLOCK_BYTES = 1 << 17  # of symmetric arrays in one addition: in and out fit a level-2 cache

REMOTE_BYTES = 1 << 20  # of an ordinary array: from here on one copy less is worth the exchange
REMOTE_RANKS = 32
REMOTE_BLOCK = 1 << 19  # of an addition, and of all others' blocks together twice that: they stay
FETCHED_BYTES = 1 << 20  # in the cache, and a call of the kernel moves as much as it can

Buffers = dict[str, Array | Symmetric]


class Allreduce(Core):
    """allreduce and iallreduce."""

    def allreduce(
        self, x: Array, op: str = "sum", out: Array | None = None, algorithm: str = "auto"
    ) -> Array:
        """The reduction of all ranks' `x` on every rank, with the same bits on each.

        Args:
            x: any shape. Symmetric arrays of one node are read, and written, where they lie.
            op: sum, mean, max or min.
            out: where the result goes, instead of a new array; `out=x` works in place.
            algorithm: auto; halving, direct, symmetric and remote (ordinary arrays of one node,
                through the kernel), which have the same bits;
                hierarchical, which has them too where the ranks of every node are consecutive;
                ring (Patarasuk and Yuan 2009); mpi and nccl, the libraries' own allreduce.
        """
        if algorithm == "auto" and type(x) is ndarray and type(op) is str:
            try:
                done = self._small.allreduce(x, op, out)
            except MPI.Exception as error:
                raise self._engine.explain(error, f"{self._who}, allreduce") from error
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
        finish = ending(op, target, self.size)
        given = target if out is None else out
        if algorithm == "mpi":
            work = self._by_mpi(source, target, op, in_place, finish, given)
        elif algorithm == "nccl":
            work = self._by_nccl(source, target, op, finish, given)
        else:
            exact = not (op == "mean" and widens(source.dtype, op, self.size))
            way = self._in_place(x, out, source, target, in_place, algorithm) if exact else None
            small = source.nbytes > 0 and is_small(source.nbytes, self.size)
            if way is None and algorithm == "auto" and small:
                way = self._at_once(source, target, in_place, op)
            if way is None:
                source, target, finish = narrowed(source, target, op, self.size)
                in_place = in_place or source is target
                if self._remotely(source, in_place, algorithm):
                    work = self._by_reach(source, target, in_place, ufunc, finish, given)
                    return self._start("allreduce", work, x=x, op=op, algorithm=algorithm, out=out)
                way = self._by_messages(source, target, in_place, algorithm)
            work = self._finished(*way, ufunc, finish, given)
        return self._start("allreduce", work, x=x, op=op, algorithm=algorithm, out=out)

    def _by_messages(
        self, source: Array, target: Array, in_place: bool, algorithm: str
    ) -> tuple[tuple[Step, ...], Buffers]:
        name, segment = "out" if in_place else "x", self._segment(source)
        if algorithm == "hierarchical" and self._nccl is not None:
            raise ValueError("allreduce: NCCL's groups rule hierarchical out: take auto")
        if algorithm == "auto":
            large = in_place and source.nbytes >= REMOTE_BYTES
            algorithm = self._selection.choose(LARGE, source.nbytes) if large else "auto"
        if algorithm in ("auto", "remote"):
            algorithm = self._selection.choose("allreduce", source.nbytes)
        steps = schedules.allreduce(
            self.rank, self.size, source.size, algorithm, name, segment=segment,
            nodes=self.node_map,
        )  # fmt: skip
        return steps, {"out": target, name: source}

    def _remotely(self, source: Array, in_place: bool, algorithm: str) -> bool:
        """Whether the peers' ordinary arrays are read and written through the kernel.

        Where the result goes elsewhere, messages are as fast: what is written is not in the cache.
        """
        can = self._reach is not None and isinstance(source, np.ndarray)
        if algorithm == "remote" and not can:
            raise ValueError(
                "allreduce: algorithm remote takes host arrays of two or more ranks on one node "
                "that may read each other's memory (process_vm_readv); take auto"
            )
        worth = in_place and source.nbytes >= REMOTE_BYTES and self.size <= REMOTE_RANKS
        worth = worth and self._selection.choose(LARGE, source.nbytes) != "halving"
        return can and (algorithm == "remote" or (algorithm == "auto" and worth))

    def _by_reach(
        self,
        source: Array,
        target: Array,
        in_place: bool,
        ufunc: str,
        finish: Callable[[], object] | None,
        given: object,
    ) -> Callable[[Call], Work]:
        """The work of an allreduce that fetches the others' blocks, and brings them the sums."""
        name = "out" if in_place else "x"
        fetched = min(REMOTE_BLOCK, FETCHED_BYTES // max(1, self.size - 1))
        block = max(1 << 12, fetched // source.itemsize)
        steps = fetching_allreduce(self.rank, self.size, source.size, name, "out", block=block)
        buffers: Buffers = {"out": target, name: source}
        assert self._reach is not None
        pids = self._reach

        def work(call: Call) -> Work:
            # Where everybody's arrays are; and that everybody has come.
            mine = np.array([address(source), address(target)], np.int64)
            table = np.empty((self.size, 2), np.int64)
            exchange = schedules.allgather(self.rank, self.size, (2,) * self.size)
            yield from self._perform(call, exchange, {"x": mine, "out": table})
            peers = {
                key: [Remote(pid, int(base)) for pid, base in zip(pids, bases, strict=True)]
                for key, bases in (("x", table[:, 0]), ("out", table[:, 1]))
            }
            yield from self._perform(call, steps, buffers, ufunc, finish=finish, remote=peers)
            return given

        return work

    def _at_once(
        self, source: Array, target: Array, in_place: bool, op: str
    ) -> tuple[tuple[Step, ...], Buffers] | None:
        """What the short way does too; calls like this one can go there from now on."""
        if widens(source.dtype, op, self.size):
            return None
        name = "out" if in_place else "x"
        if isinstance(source, np.ndarray) and self._guard is None:
            self._small.learn(source, op)
        steps = one_shot_allreduce(self.rank, self.size, source.size, name)
        return steps, {"out": target, name: source}

    def _in_place(
        self,
        x: object,
        out: object,
        source: Array,
        target: Array,
        in_place: bool,
        algorithm: str,
    ) -> tuple[tuple[Step, ...], Buffers] | None:
        """Where peers' memory is read; None where it is not."""
        symmetric = self._reaches_all(out)
        few = self.size <= 4  # to add up everything is then less than to send and to fetch
        one_shot = source.nbytes <= ONE_SHOT_BYTES or (few and not symmetric)
        takes = self._reaches_all(x) and (symmetric or one_shot)
        if not takes or algorithm not in ("auto", "symmetric"):
            if algorithm == "symmetric":
                raise ValueError(
                    "allreduce: algorithm symmetric takes x=comm.symmetric(...) on one node, and "
                    "out=x or another symmetric array"
                )
            return None
        name = "x" if in_place else "out"
        block = max(1, BLOCK_BYTES // source.itemsize)
        steps = shared_allreduce(
            self.rank, self.size, source.size, "x", name, block=block, one_shot=one_shot
        )
        return steps, {"x": x} | ({} if in_place else {"out": out if symmetric else target})

    def _finished(
        self,
        steps: tuple[Step, ...],
        buffers: Buffers,
        ufunc: str,
        finish: Callable[[], object] | None,
        given: object,
    ) -> Callable[[Call], Work]:
        """The work of a schedule whose result is `given`."""

        def work(call: Call) -> Work:
            yield from self._perform(call, steps, buffers, ufunc, finish=finish)
            return given

        return work

    def _by_nccl(
        self,
        source: Array,
        target: Array,
        op: str,
        finish: Callable[[], object] | None,
        given: Array,
    ) -> Callable[[Call], Work]:
        """NCCL's own allreduce."""
        nccl = self._nccl
        if nccl is None or isinstance(source, np.ndarray):
            raise ValueError("allreduce: algorithm nccl takes GPU arrays and backend nccl")

        def work(call: Call) -> Work:
            name = "sum" if op == "mean" else op
            yield from nccl.allreduce(call, source, target, name, call.ready, finish)
            return given

        return work

    def _by_mpi(
        self,
        source: Array,
        target: Array,
        op: str,
        in_place: bool,
        finish: Callable[[], object] | None,
        given: Array,
    ) -> Callable[[Call], Work]:
        """MPI's own allreduce."""
        unknown = f"allreduce: MPI cannot reduce dtype {source.dtype}; take auto"
        if not isinstance(source, np.ndarray):
            raise ValueError("allreduce: algorithm mpi takes host arrays only; take auto")
        kind = MPI.DATATYPE_NULL
        if source.dtype.kind in "iufc":
            try:
                kind = MPI.Datatype.fromcode(source.dtype.char)
            except ValueError:
                kind = MPI.DATATYPE_NULL
        if kind == MPI.DATATYPE_NULL:
            raise TypeError(unknown)
        operation = {"max": MPI.MAX, "min": MPI.MIN}.get(op, MPI.SUM)
        sent = MPI.IN_PLACE if in_place else (source, source.size, kind)

        def work(call: Call) -> Work:
            try:
                request = self._collective.Iallreduce(sent, (target, target.size, kind), operation)
            except MPI.Exception as error:
                if error.Get_error_class() != MPI.ERR_OP:
                    raise
                raise TypeError(unknown) from None
            while not request.Test():
                yield
            if finish is not None:
                finish()
            return given

        return work
