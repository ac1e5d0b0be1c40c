"""Schedules of the collective operations, each for one rank of any number of ranks.

What a rank brings is in buffer "x", what it gets is in "out"; "scratch" is the runner's. Counts
are elements. Reductions add in the order of the tree over the ranks (schedule/tree.py), except the
ring. All functions are pure; as schedules of large arrays are long, they remember their last
answers.
"""

from collections.abc import Iterator
from functools import lru_cache

from hpcpar.schedule.broadcast import (
    bcast_chain,
    bcast_hierarchical,
    bcast_line,
    bcast_tree,
    prefers_chain,
)
from hpcpar.schedule.exchange import SEGMENT, direct_tree, piece, pipeline, stages
from hpcpar.schedule.hierarchical import hierarchical_ranks
from hpcpar.schedule.hierarchical_halves import (
    hierarchical_allgather,
    hierarchical_reduce_scatter,
)
from hpcpar.schedule.point_to_point import pieces
from hpcpar.schedule.ring import ring_allreduce
from hpcpar.schedule.steps import Combine, Copy, Recv, Send, Span, Step
from hpcpar.schedule.tree import Node, allreduce_roots, combine_plan

__all__ = [
    "allgather",
    "allreduce",
    "alltoall",
    "barrier",
    "bcast",
    "gather",
    "reduce",
    "reduce_scatter",
    "scatter",
]

Steps = tuple[Step, ...]
remember = lru_cache(maxsize=256)


@remember
def allreduce(
    rank: int,
    size: int,
    count: int,
    algorithm: str = "auto",
    source: str = "x",
    *,
    segment: int = SEGMENT,
    nodes: tuple[int, ...] | None = None,
) -> Steps:
    """out = the reduction of every rank's `source`, which may be "out" itself.

    auto, halving and direct have the same bits: the tree over the ranks. hierarchical has them too
    where the ranks of every node are consecutive; otherwise its tree is over the ranks in the order
    of their nodes. `nodes` has the number of each rank's node, None for one node.
    """
    if algorithm == "ring":
        return ring_allreduce(rank, size, count, source, segment)
    places = _places(size, nodes)
    if algorithm == "hierarchical" and size > 1:
        return tuple(hierarchical_ranks(rank, count, places, source, segment))
    trees = _one_each(size)
    return tuple(
        allreduce_roots(
            rank, count, trees, size, [source], segment=segment, algorithm=algorithm, nodes=nodes
        )
    )


@remember
def reduce_scatter(
    rank: int,
    size: int,
    counts: tuple[int, ...],
    segment: int = SEGMENT,
    nodes: tuple[int, ...] | None = None,
) -> Steps:
    """out = this rank's run of the sum; rank j's run has counts[j] elements.

    By direct exchange, or with `nodes` (the number of each rank's node) added up inside the nodes
    first; about the order of additions then see `allreduce`.
    """
    if size == 1:
        return _copy(0, counts[0])
    if nodes is not None:
        places = _places(size, nodes)
        return tuple(hierarchical_reduce_scatter(rank, _runs(counts), places, segment))
    plan = combine_plan([node for own in _one_each(size) for node in own], size)
    return tuple(
        direct_tree(rank, range(size), plan, ["x"], _runs(counts), segment=segment, share=False)
    )


@remember
def reduce(rank: int, size: int, count: int, root: int = 0, segment: int = SEGMENT) -> Steps:
    """out on the root = the sum in tree order, by a binomial tree.

    A subtree's sum is made by its lowest rank, or by the root if that is one of its ranks: so any
    root gets the bits of the tree without an extra hop.
    """
    meetings = list(_meetings(rank, size, root))
    if size == 1:
        return _copy(0, count)
    sources = [other for other, _, _ in meetings]
    to = next((other for other, receives, _ in meetings if not receives), None)
    fan_in = len(sources) if to is None else len(sources) - 1

    def slot(i: int, k: int, length: int) -> Span:
        base = ((i % 2) * fan_in + k) * segment
        return Span("scratch", base, base + length)

    def start(i: int) -> list[Step]:
        length = len(piece(range(count), i, segment))
        return [Recv(sources[k], slot(i, k, length)) for k in range(fan_in)]

    def finish(i: int) -> list[Step]:
        run = piece(range(count), i, segment)
        mine, steps = Span("x", run.start, run.stop), list[Step]()
        for k, (_, receives, is_left) in enumerate(meetings):
            if receives:
                other = slot(i, k, len(run))
                last = to is None and k == fan_in - 1
                into = Span("out", run.start, run.stop) if last else slot(i, 0, len(run))
                left, right = (mine, other) if is_left else (other, mine)
                steps.append(Combine(into, left, right))
                mine = into
        return steps if to is None else [*steps, Send(to, mine)]

    return tuple(pipeline(stages((range(count),), segment), start, finish, ahead=2))


@remember
def bcast(
    rank: int,
    size: int,
    count: int,
    root: int = 0,
    algorithm: str = "auto",
    *,
    segment: int = SEGMENT,
    nodes: tuple[int, ...] | None = None,
) -> Steps:
    """Fill "x" with the root's: down a binomial tree, along a chain, or hierarchical.

    auto takes what needs the fewest pieces one after the other; where `nodes` (the number of each
    rank's node) has several, hierarchical for more than one piece. Tree and chain go node by node.
    """
    if algorithm not in ("auto", "tree", "chain", "hierarchical"):
        raise ValueError(f"bcast: algorithm is {algorithm!r}: auto, tree, chain or hierarchical")
    places = _places(size, nodes)
    if algorithm == "auto":
        far = len(set(places)) > 1 and count > segment
        chain = prefers_chain(size, count, segment)
        algorithm = "hierarchical" if far else "chain" if chain else "tree"
    if algorithm == "hierarchical":
        return tuple(bcast_hierarchical(rank, root, count, places, segment))
    steps_of = bcast_chain if algorithm == "chain" else bcast_tree
    return tuple(steps_of(rank, bcast_line(size, root, places), count, segment))


@remember
def gather(
    rank: int, size: int, counts: tuple[int, ...], root: int = 0, segment: int = SEGMENT
) -> Steps:
    """out on the root = every rank's "x", in rank order; rank j's has counts[j] elements."""
    runs = _runs(counts)
    if rank != root:
        return pieces(Send, root, "x", range(counts[rank]), segment)
    steps = list(_copy(runs[rank].start, counts[rank]))
    for other in range(size):
        if other != root:
            steps += pieces(Recv, other, "out", runs[other], segment)
    return tuple(steps)


@remember
def scatter(
    rank: int, size: int, counts: tuple[int, ...], root: int = 0, segment: int = SEGMENT
) -> Steps:
    """out = this rank's run of the root's "x"; rank j's run has counts[j] elements."""
    runs = _runs(counts)
    if rank != root:
        return pieces(Recv, root, "out", range(counts[rank]), segment)
    steps: list[Step] = []
    for other in range(size):
        if other != root:
            steps += pieces(Send, other, "x", runs[other], segment)
    return (*steps, *_copy(0, counts[rank], start=runs[rank].start))


@remember
def allgather(
    rank: int,
    size: int,
    counts: tuple[int, ...],
    segment: int = SEGMENT,
    nodes: tuple[int, ...] | None = None,
) -> Steps:
    """out = every rank's "x", in rank order; rank j's has counts[j] elements.

    From each to each, or with `nodes` (the number of each rank's node) once to every node.
    """
    if nodes is not None:
        places = _places(size, nodes)
        return tuple(hierarchical_allgather(rank, _runs(counts), places, segment))
    own = range(counts[rank])
    return _exchange(rank, size, [own] * size, _runs(counts), segment)


@remember
def alltoall(
    rank: int,
    size: int,
    to_each: tuple[int, ...],
    from_each: tuple[int, ...],
    segment: int = SEGMENT,
) -> Steps:
    """Run j of "x", to_each[j] elements, goes to rank j; out = what came, in rank order."""
    return _exchange(rank, size, _runs(to_each), _runs(from_each), segment)


@remember
def barrier(rank: int, size: int) -> Steps:
    """Nobody's ends before everybody's has begun: dissemination (Hensgen, Finkel and Manber 1988).

    The token that is sent in a round is the one that arrived in the round before, which makes the
    scoreboard wait for it.
    """
    steps: list[Step] = []
    for k in range((size - 1).bit_length()):
        steps.append(Recv((rank - (1 << k)) % size, Span("x", k + 1, k + 2)))
        steps.append(Send((rank + (1 << k)) % size, Span("x", k, k + 1)))
    return tuple(steps)


def _meetings(rank: int, size: int, root: int) -> Iterator[tuple[int, bool, bool]]:
    """Upwards: the other rank, whether this one receives, whether its own subtree is the left."""

    def holder(level: int, index: int) -> int:
        return root if root >> level == index else index << level

    level = 0
    while (1 << level) < size:
        index = rank >> level
        if (index ^ 1) << level < size:
            other = holder(level, index ^ 1)
            receives = holder(level + 1, index >> 1) == rank
            yield other, receives, index & 1 == 0
            if not receives:
                return
        level += 1


def _exchange(
    rank: int, size: int, sent: list[range], received: list[range], segment: int
) -> Steps:
    """Send run j of "x" to rank j and receive its run of "out", for all j."""
    steps: list[Step] = []
    for shift in range(1, size):  # not all from rank 0 at once
        source = (rank - shift) % size
        steps += pieces(Recv, source, "out", received[source], segment)
    for shift in range(1, size):
        to = (rank + shift) % size
        steps += pieces(Send, to, "x", sent[to], segment)
    own = sent[rank]
    return (*steps, *_copy(received[rank].start, len(own), start=own.start))


def _copy(into: int, count: int, source: str = "x", start: int = 0) -> Steps:
    """out[into:] = source[start:], `count` elements."""
    if count == 0:
        return ()
    return (Copy(Span("out", into, into + count), Span(source, start, start + count)),)


def _runs(counts: tuple[int, ...]) -> list[range]:
    runs, start = [], 0
    for count in counts:
        runs.append(range(start, start + count))
        start += count
    return runs


def _places(size: int, nodes: tuple[int, ...] | None) -> tuple[int, ...]:
    """The node of each rank."""
    if nodes is not None and len(nodes) != size:
        raise ValueError(f"nodes has {len(nodes)} entries for {size} ranks")
    return (0,) * size if nodes is None else nodes


def _one_each(size: int) -> list[list[Node]]:
    """Rank r has leaf r."""
    return [[Node(0, rank)] for rank in range(size)]
