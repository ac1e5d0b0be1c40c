"""Sums of leaves by the tree, on all ranks: the reductions whose bits do not depend on the layout.

The tree's shape is in schedule/shape.py; its names are here too. Here are the ways to add up what
the ranks hold of one.
"""

from collections.abc import Sequence
from functools import lru_cache

from hpcpar.schedule.exchange import SEGMENT, direct_tree, doubling_tree, split
from hpcpar.schedule.groups import consecutive
from hpcpar.schedule.halving import halving_tree
from hpcpar.schedule.hierarchical import hierarchical_tree
from hpcpar.schedule.shape import Node, combine_plan, deal, roots, subtrees
from hpcpar.schedule.steps import Copy, Span, Step

__all__ = [
    "Node",
    "allreduce_roots",
    "combine_plan",
    "deal",
    "roots",
    "subtrees",
    "tree_allreduce",
    "tree_allreduce_in_place",
    "tree_reduce_scatter",
]

SMALL = 1 << 11  # elements up to which fewer messages matter more than less volume


def tree_allreduce(
    rank: int,
    size: int,
    count: int,
    runs: Sequence[range],
    leaves: int,
    *,
    segment: int = SEGMENT,
    algorithm: str = "auto",
    nodes: Sequence[int] | None = None,
) -> Sequence[Step]:
    """Sum the roots of all ranks by the tree; every rank gets the same bits, for every `size`.

    Before, a rank holds the roots of its run in buffers "root0", "root1", ... of `count` elements
    each, in the order of `subtrees`; afterwards all have the sum in "out". Nothing but "out" and
    "scratch" is written.

    Args:
        runs: the leaves of each rank, one run after the other; a run may be empty.
        segment: the number of elements that travel in one message.
        algorithm: halving (schedule/halving.py): 2 log2(size) rounds; direct: rank j gets slice j
            of every root, adds it up by the tree, and sends the sum to all; hierarchical
            (schedule/hierarchical.py). All have the same bits, and move 2 (size - 1) / size * count
            elements out of each rank that has one root. auto takes hierarchical where there are
            several nodes with consecutive ranks; halving where `size` is a power of two and every
            rank has one root of the same level; else direct.
        nodes: the number of each rank's node; None if all are on one. Where the ranks of a node are
            not consecutive, hierarchical is direct: the order of additions comes first.
    """
    if len(runs) != size or not 0 <= rank < size:
        raise ValueError(f"{len(runs)} runs of leaves for rank {rank} of {size}")
    places = None if nodes is None else tuple(nodes)
    return _tree_allreduce(rank, count, tuple(runs), leaves, segment, algorithm, places)


@lru_cache(maxsize=128)
def _tree_allreduce(
    rank: int,
    count: int,
    runs: tuple[range, ...],
    leaves: int,
    segment: int,
    algorithm: str,
    nodes: tuple[int, ...] | None,
) -> tuple[Step, ...]:
    trees = [subtrees(run.start, run.stop, leaves) for run in runs]
    names = [f"root{i}" for i in range(len(trees[rank]))]
    return tuple(
        allreduce_roots(
            rank, count, trees, leaves, names, segment=segment, algorithm=algorithm, nodes=nodes
        )
    )


@lru_cache(maxsize=256)
def tree_allreduce_in_place(
    rank: int,
    count: int,
    runs: tuple[range, ...],
    leaves: int,
    nodes: tuple[int, ...] | None = None,
) -> tuple[Step, ...]:
    """As `tree_allreduce`, with a rank's first root in "out": the sum takes its place."""
    trees = [subtrees(run.start, run.stop, leaves) for run in runs]
    names = ["out", *(f"root{i}" for i in range(1, len(trees[rank])))][: len(trees[rank])]
    return tuple(allreduce_roots(rank, count, trees, leaves, names, nodes=nodes))


@lru_cache(maxsize=512)
def tree_reduce_scatter(
    rank: int,
    slices: tuple[range, ...],
    runs: tuple[range, ...],
    leaves: int,
    segment: int = SEGMENT,
) -> tuple[Step, ...]:
    """As `tree_allreduce`, but rank j gets slice j of the sum alone, as the whole of its "out".

    By direct exchange: a rank sends each other rank that one's slice of its roots.
    """
    trees = [subtrees(run.start, run.stop, leaves) for run in runs]
    names = [f"root{i}" for i in range(len(trees[rank]))]
    owners, plan = _whole(trees, leaves)
    return tuple(direct_tree(rank, owners, plan, names, slices, segment=segment, share=False))


def allreduce_roots(
    rank: int,
    count: int,
    trees: Sequence[Sequence[Node]],
    leaves: int,
    names: Sequence[str],
    *,
    segment: int = SEGMENT,
    algorithm: str = "auto",
    nodes: tuple[int, ...] | None = None,
) -> list[Step]:
    """`tree_allreduce` of the roots `trees` of all ranks, with this rank's in the buffers `names`.

    Raises ValueError for an `algorithm` that is not auto, halving, direct or hierarchical.
    """
    size = len(trees)
    if algorithm not in ("auto", "halving", "direct", "hierarchical"):
        raise ValueError(f"algorithm is {algorithm!r}: auto, halving, direct or hierarchical")
    if size == 1:
        return [] if names[0] == "out" else [Copy(Span("out", 0, count), Span(names[0], 0, count))]
    if algorithm in ("auto", "hierarchical") and nodes is not None and consecutive(nodes):
        large = 1 < len(set(nodes)) < size and count > SMALL
        if algorithm == "hierarchical" or large:
            return hierarchical_tree(rank, count, trees, leaves, names, nodes, segment)
    if algorithm == "halving" or (algorithm == "auto" and _aligned(trees)):
        if count <= SMALL and _aligned(trees):
            return doubling_tree(rank, size, count, names[0])
        if size > 2 or algorithm == "halving":  # for two ranks the direct exchange is the same
            owners, plan = _whole(trees, leaves)
            return halving_tree(rank, size, count, owners, plan, names, segment)
    owners, plan = _whole(trees, leaves)
    small = count * len(owners) <= SMALL
    slices = [range(count)] * size if small else split(count, size)
    return direct_tree(rank, owners, plan, names, slices, segment=segment, share=not small)


def _whole(
    trees: Sequence[Sequence[Node]], leaves: int
) -> tuple[list[int], list[tuple[int, int, int]]]:
    """The owner of every root, and how all are added."""
    owners = [owner for owner, own in enumerate(trees) for _ in own]
    return owners, combine_plan([node for own in trees for node in own], leaves)


def _aligned(trees: Sequence[Sequence[Node]]) -> bool:
    """Whether the roots are one whole level of the tree, one on each rank."""
    size = len(trees)
    return (
        size & (size - 1) == 0
        and all(len(own) == 1 for own in trees)
        and len({own[0].level for own in trees}) == 1
    )  # fmt: skip
