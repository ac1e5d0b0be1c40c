"""Right programs, made up: any calls in any order, of which a guard must accuse none.

All ranks make the same program from the same number. What each rank brings is known to all, so
every result is compared with NumPy's.
"""

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from hpcpar.comm import Communicator, Request

__all__ = ["run_right_program"]

CALLS = 8
DTYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int32, np.int64, np.complex64)
FLOATS = DTYPES[:4]

Pending = tuple[Request, Callable[[Any], None]]


def run_right_program(comm: Communicator, number: int) -> None:
    """Run it, and raise AssertionError where a result is not NumPy's."""
    _Program(comm, number).run()


class _Program:
    """Attributes: dice, the same on all ranks; own, for what a rank may do as it likes."""

    def __init__(self, comm: Communicator, number: int) -> None:
        self.number = number
        self.dice = np.random.default_rng(number)
        self.own = np.random.default_rng([number, comm.rank])
        self.comms = [comm]
        self.pending: list[Pending] = []

    def run(self) -> None:
        if self.dice.random() < 0.2:
            colors = self.dice.integers(0, 2, self.comms[0].size)
            part = self.comms[0].split(int(colors[self.comms[0].rank]))
            assert part is not None
            self.comms.append(part)
        calls = (
            self.allreduce, self.reduce, self.reduce_scatter, self.bcast, self.gather, self.scatter,
            self.allgather, self.alltoall, self.barrier, self.ring, self.pairs, self.one_tag,
            self.symmetric,
        )  # fmt: skip
        for turn in range(CALLS):
            self.dice = np.random.default_rng([self.number, turn])  # parts may throw it more often
            wait = self.dice.random() < 0.3
            call = calls[self.dice.integers(len(calls))]
            if call == self.symmetric and turn:
                continue  # making one is many calls
            call(self.comms[self.dice.integers(len(self.comms))])
            if wait:
                self.settle()
        self.settle()
        for part in self.comms[1:]:
            part.close()

    def settle(self) -> None:
        """Wait for all that is under way, in an order of this rank's own."""
        self.own.shuffle(self.pending)
        for request, verify in self.pending:
            verify(request.wait())
        self.pending.clear()

    def later(self, request: Request, expected: np.ndarray | None) -> None:
        """To be waited for at some time; now on some ranks."""
        verify = _equal(expected)
        if self.own.random() < 0.2:
            verify(request.wait())
        else:
            self.pending.append((request, verify))

    def shape(self, axes: int = 0) -> tuple[int, ...]:
        """Of `axes` dimensions or one or two more; now and then of no elements."""
        return tuple(
            int(extent) for extent in self.dice.integers(0, 9, axes + self.dice.integers(1, 3))
        )

    def arrays(
        self, size: int, shape: Sequence[int], dtype: Any = None, rows: bool = False
    ) -> list[np.ndarray]:
        """What each rank has: whole numbers so small that every order of adding is exact."""
        dtype = DTYPES[self.dice.integers(len(DTYPES))] if dtype is None else dtype
        heads = self.dice.integers(0, 7, size) if rows else [shape[0] if shape else 0] * size
        return [
            self.dice.integers(0, 5, (int(head), *shape[1:]) if shape else ()).astype(dtype)
            for head in heads
        ]

    def reduction(self, size: int, axes: int = 0) -> tuple[str, list[np.ndarray], np.ndarray]:
        """An op, what each rank has, and the result."""
        op = ("sum", "mean", "max", "min")[self.dice.integers(4)]
        dtype = FLOATS[self.dice.integers(len(FLOATS))] if op != "sum" else None
        arrays = self.arrays(size, self.shape(axes), dtype)
        ufunc = {"max": np.maximum, "min": np.minimum}.get(op, np.add)
        total = ufunc.reduce(np.stack(arrays), axis=0, dtype=arrays[0].dtype)
        if op == "mean":
            total = np.divide(total, total.dtype.type(size))
        return op, arrays, total

    def allreduce(self, comm: Communicator) -> None:
        op, arrays, total = self.reduction(comm.size)
        names = ["auto", "ring", "direct"]
        names += ["mpi"] if arrays[0].dtype in (np.float32, np.float64, np.int32) else []
        algorithm = names[self.dice.integers(len(names))]
        x = arrays[comm.rank]
        out = (None, x, np.empty_like(x))[self.own.integers(3)]
        self.later(comm.iallreduce(x, op, out, algorithm), total)

    def reduce(self, comm: Communicator) -> None:
        op, arrays, total = self.reduction(comm.size)
        root = int(self.dice.integers(comm.size))
        request = comm.ireduce(arrays[comm.rank], root, op)
        self.later(request, total if comm.rank == root else None)

    def reduce_scatter(self, comm: Communicator) -> None:
        op, arrays, total = self.reduction(comm.size, axes=1)
        expected = np.array_split(total, comm.size)[comm.rank]
        self.later(comm.ireduce_scatter(arrays[comm.rank], op), expected)

    def bcast(self, comm: Communicator) -> None:
        arrays = self.arrays(comm.size, self.shape())
        root = int(self.dice.integers(comm.size))
        self.later(comm.ibcast(arrays[comm.rank].copy(), root), arrays[root])

    def gather(self, comm: Communicator) -> None:
        arrays = self.arrays(comm.size, self.shape(), rows=True)
        root = int(self.dice.integers(comm.size))
        expected = np.concatenate(arrays) if comm.rank == root else None
        self.later(comm.igather(arrays[comm.rank], root), expected)

    def scatter(self, comm: Communicator) -> None:
        (x,) = self.arrays(1, self.shape())
        root = int(self.dice.integers(comm.size))
        request = comm.iscatter(x if comm.rank == root else None, root)
        self.later(request, np.array_split(x, comm.size)[comm.rank])

    def allgather(self, comm: Communicator) -> None:
        arrays = self.arrays(comm.size, self.shape(), rows=True)
        joined = np.concatenate(arrays)
        out = np.empty_like(joined) if self.own.random() < 0.5 else None
        self.later(comm.iallgather(arrays[comm.rank], out), joined)

    def alltoall(self, comm: Communicator) -> None:
        arrays = self.arrays(comm.size, self.shape(), rows=True)
        parts = [np.array_split(array, comm.size)[comm.rank] for array in arrays]
        self.later(comm.ialltoall(arrays[comm.rank]), np.concatenate(parts))

    def barrier(self, comm: Communicator) -> None:
        self.later(comm.ibarrier(), None)

    def symmetric(self, comm: Communicator) -> None:
        op, arrays, total = self.reduction(comm.size)
        x = comm.symmetric(total.shape, total.dtype)
        x.local[...] = arrays[comm.rank]
        comm.allreduce(x, op, out=x)
        assert np.array_equal(x.local, total)

    def ring(self, comm: Communicator) -> None:
        """sendrecv on some ranks, isend and irecv on the others; shapes differ, elements do not."""
        shift, tag = (int(n) for n in self.dice.integers(0, comm.size, 2))
        arrays = self.arrays(comm.size, self.shape(axes=1))
        x, after = arrays[comm.rank], (comm.rank + shift) % comm.size
        before = (comm.rank - shift) % comm.size
        out = np.empty(arrays[before].size, x.dtype)
        expected = arrays[before].reshape(-1)
        if self.own.random() < 0.5:
            self.later(comm.isendrecv(x, after, out, before, tag), expected)
        else:
            sent, received = comm.isend(x, after, tag), comm.irecv(out, before, tag)
            self.later(sent, None)
            self.later(received, expected)

    def pairs(self, comm: Communicator) -> None:
        """Even ranks sendrecv with the rank above, which receives first and then sends."""
        arrays = self.arrays(comm.size, self.shape())
        x, out, other = arrays[comm.rank], np.empty_like(arrays[0]), comm.rank ^ 1
        if other >= comm.size:
            return
        if comm.rank % 2:
            comm.recv(out, other)
            comm.send(x, other)
        else:
            comm.sendrecv(x, other, out, other)
        assert np.array_equal(out, arrays[other])

    def one_tag(self, comm: Communicator) -> None:
        """Long and short messages from one rank to another, all with one tag, none waited for."""
        source, dest = (int(rank) for rank in self.dice.integers(0, comm.size, 2))
        for count in self.dice.choice([0, 1, 7, 500, 300_000], 4):
            (x,) = self.arrays(1, (int(count),), np.float64)
            if comm.rank == source:
                self.pending.append((comm.isend(x, dest, 5), _equal(None)))
            if comm.rank == dest:
                self.pending.append((comm.irecv(np.empty_like(x), source, 5), _equal(x)))


def _equal(expected: np.ndarray | None) -> Callable[[Any], None]:
    def verify(found: Any) -> None:
        if expected is None:
            assert found is None
        else:
            assert found.dtype == expected.dtype and np.array_equal(found, expected)

    return verify
