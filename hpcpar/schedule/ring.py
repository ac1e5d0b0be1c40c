"""Collectives on a ring: each rank talks to its two neighbours only.

They move the least volume and share the links evenly, in 2 (size - 1) rounds. Slice j is added up
from rank j+1 on around the ring, so its order of additions is its own and changes with `size`: the
ring is not the reproducible path.
"""

from functools import lru_cache

from hpcpar.schedule.exchange import SEGMENT, piece, pipeline, split, stages
from hpcpar.schedule.steps import Combine, Copy, Recv, Send, Span, Step

__all__ = ["ring_allgather", "ring_allreduce", "ring_gather_slices", "ring_reduce_scatter"]


def ring_reduce_scatter(
    rank: int, size: int, count: int, source: str = "x", segment: int = SEGMENT
) -> tuple[Step, ...]:
    """Leaves this rank's slice of the sum in its place in "out" (Patarasuk and Yuan 2009).

    Slice j travels from rank j+1 once around to rank j and is added to on the way.
    """
    slices = split(count, size)
    if size == 1:
        whole = Copy(Span("out", 0, count), Span(source, 0, count))
        return () if source == "out" else (whole,)
    steps: list[Step] = []
    for hop in range(size - 1):
        give, take = slices[(rank - 1 - hop) % size], slices[(rank - 2 - hop) % size]
        neighbours = ((rank - 1) % size, (rank + 1) % size)
        names = (source if hop == 0 else "out", source)
        steps += _ring_hop(neighbours, give, take, names, segment)
    return tuple(steps)


def ring_allgather(rank: int, size: int, count: int, segment: int = SEGMENT) -> tuple[Step, ...]:
    """Every rank has its slice in its place in "out"; all slices travel around the ring."""
    return ring_gather_slices(rank, tuple(split(count, size)), segment)


@lru_cache(maxsize=512)
def ring_gather_slices(
    rank: int, slices: tuple[range, ...], segment: int = SEGMENT
) -> tuple[Step, ...]:
    """`ring_allgather` of slices of any lengths."""
    size = len(slices)
    steps: list[Step] = []
    for hop in range(size - 1):
        give, take = slices[(rank - hop) % size], slices[(rank - 1 - hop) % size]
        for i in range(stages((give, take), segment)):
            theirs, ours = piece(take, i, segment), piece(give, i, segment)
            if theirs:
                steps.append(Recv((rank - 1) % size, Span("out", theirs.start, theirs.stop)))
            if ours:
                steps.append(Send((rank + 1) % size, Span("out", ours.start, ours.stop)))
    return tuple(steps)


def ring_allreduce(
    rank: int, size: int, count: int, source: str = "x", segment: int = SEGMENT
) -> tuple[Step, ...]:
    """The bandwidth-optimal ring. Its order of additions differs from slice to slice."""
    there = ring_reduce_scatter(rank, size, count, source, segment)
    return there + ring_allgather(rank, size, count, segment)


def _ring_hop(
    neighbours: tuple[int, int], give: range, take: range, names: tuple[str, str], segment: int
) -> list[Step]:
    """Pass the slice `give` on; what arrives for `take` is added to: arriving + own."""
    before, after = neighbours
    giving, own = names

    def slot(i: int) -> Span:
        base = (i % 2) * segment
        return Span("scratch", base, base + len(piece(take, i, segment)))

    def start(i: int) -> list[Step]:
        arriving, leaving = slot(i), piece(give, i, segment)
        steps: list[Step] = [Recv(before, arriving)] if len(arriving) else []
        if leaving:
            steps.append(Send(after, Span(giving, leaving.start, leaving.stop)))
        return steps

    def finish(i: int) -> list[Step]:
        run = piece(take, i, segment)
        if not run:
            return []
        return [Combine(Span("out", run.start, run.stop), slot(i), Span(own, run.start, run.stop))]

    return pipeline(stages((give, take), segment), start, finish, ahead=2)
