"""Moves a matrix from any layout to any other: every rank gets the parts that it lacks.

On one node they are read where they lie. Otherwise each rank packs what it has for every other, and
one all-to-all carries it.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from hpcpar.comm.running import SEGMENT_BYTES
from hpcpar.device import Array, namespace
from hpcpar.linalg.layout import Runs, common, length
from hpcpar.linalg.parts import Part, copy_parts, extent, joined
from hpcpar.schedule.collectives import alltoall

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["Source", "move", "moved", "parts_of", "sources"]

Owned = tuple[Runs, Runs]  # rows and columns


class Source(Protocol):
    """What `move` needs of a matrix."""

    @property
    def comm(self) -> "Communicator":
        """Its ranks."""

    @property
    def conjugated(self) -> bool:
        """Whether its values are the conjugates of what lies in the blocks."""

    @property
    def reachable(self) -> bool:
        """Whether a rank can read every block."""

    def runs(self, rank: int) -> Owned:
        """What a rank holds."""

    def block(self, rank: int) -> Array:
        """The block of a rank."""


def move(
    source: Source, wanted: Callable[[int], Owned], into: Array, name: str = "redistribute"
) -> None:
    """Fill every rank's `into` with the part of `source` that `wanted` says is its. Collective.

    `into` is memory apart from the source's blocks; its elements are the wanted rows and columns
    in their order.
    """
    comm = source.comm
    start = time.perf_counter()
    if source.reachable:
        comm.device.synchronize()
        comm.barrier()  # everybody has written
        moved_bytes = 0
        for owner, rows, columns in _pieces(source, comm.size, comm.rank, wanted(comm.rank)):
            copy_parts(into, source.block(owner), rows, columns)
            if owner != comm.rank:
                moved_bytes += _count(rows, columns) * into.dtype.itemsize
        comm.device.synchronize()
        comm.barrier()  # everybody has read
        comm.ledger.add(name, 0, moved_bytes, time.perf_counter() - start)
    else:
        _by_messages(source, wanted, into, name)
    if source.conjugated:
        namespace(into).conj(into, out=into)


def moved(source: Source, size: int, rank: int, wanted: Owned) -> int:
    """Elements that `move` brings to a rank from others."""
    return sum(
        _count(rows, columns)
        for owner, rows, columns in _pieces(source, size, rank, wanted)
        if owner != rank
    )


def _by_messages(source: Source, wanted: Callable[[int], Owned], into: Array, name: str) -> None:
    comm, xp = source.comm, namespace(into)
    me, mine = comm.rank, source.block(comm.rank)
    arriving = {
        owner: (rows, columns)
        for owner, rows, columns in _pieces(source, comm.size, me, wanted(me))
    }
    if me in arriving:
        copy_parts(into, mine, *arriving.pop(me))
    leaving = {}
    for other in range(comm.size):
        if other != me:
            for owner, rows, columns in _pieces(source, comm.size, other, wanted(other)):
                if owner == me:
                    leaving[other] = rows, columns
    out_counts = tuple(_count(*leaving.get(rank, ((), ()))) for rank in range(comm.size))
    in_counts = tuple(_count(*arriving.get(rank, ((), ()))) for rank in range(comm.size))
    packed = xp.empty(sum(out_counts), into.dtype)
    at = 0
    for other in sorted(leaving):
        rows, columns = leaving[other]
        part = _piece(packed, at, rows, columns)
        copy_parts(part, mine, joined(rows, here=False), joined(columns, here=False))
        at += part.size
    landed = xp.empty(sum(in_counts), into.dtype)
    segment = max(1, SEGMENT_BYTES // into.dtype.itemsize)
    steps = alltoall(me, comm.size, out_counts, in_counts, segment)
    comm.run(steps, {"x": packed, "out": landed}, name=name)
    at = 0
    for owner in sorted(arriving):
        rows, columns = arriving[owner]
        part = _piece(landed, at, rows, columns)
        copy_parts(into, part, joined(rows, here=True), joined(columns, here=True))
        at += part.size


def _piece(packed: Array, at: int, rows: Sequence[Part], columns: Sequence[Part]) -> Array:
    """What goes between two ranks, as the matrix of these rows and columns."""
    return packed[at : at + _count(rows, columns)].reshape(extent(rows), extent(columns))


def sources(source: Source, size: int, rank: int) -> list[int]:
    """One rank for every different block: `rank` itself where it can be, else they take turns."""
    groups: dict[Owned, list[int]] = {}
    for other in range(size):
        groups.setdefault(source.runs(other), []).append(other)
    return [
        rank if rank in group else group[rank % len(group)]
        for (rows, columns), group in groups.items()
        if rows and columns
    ]


def parts_of(held: Owned, wanted: Owned) -> tuple[list[Part], list[Part]]:
    """What of the wanted rows and columns is held, with its places in either."""
    return common(held[0], wanted[0]), common(held[1], wanted[1])


def _pieces(
    source: Source, size: int, rank: int, wanted: Owned
) -> list[tuple[int, list[Part], list[Part]]]:
    """From which ranks `rank` takes which parts of what it wants."""
    if not length(wanted[0]) or not length(wanted[1]):
        return []
    found = []
    for owner in sources(source, size, rank):
        rows, columns = parts_of(source.runs(owner), wanted)
        if rows and columns:
            found.append((owner, rows, columns))
    return found


def _count(rows: Sequence[Part], columns: Sequence[Part]) -> int:
    return extent(rows) * extent(columns)
