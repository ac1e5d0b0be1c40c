"""The shape of the tree that sums are added by.

The leaves 0 .. `leaves`-1 stand under the binary tree of the next power of two; leaves that do not
exist are skipped, so an inner node with one child has that child's value. Node (level, index)
covers the leaves [index * 2**level, (index + 1) * 2**level). Several nodes at the right edge may
cover the same leaves; the highest of them names the subtree.

All functions here are pure, and the order they describe depends on `leaves` alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

__all__ = ["Node", "combine_plan", "combine_run", "deal", "roots", "subtrees"]


@dataclass(frozen=True, slots=True)
class Node:
    """A subtree: the leaves [index * 2**level, (index + 1) * 2**level) that exist."""

    level: int
    index: int

    def leaves(self, leaves: int) -> range:
        """The leaf numbers under this node in a tree of `leaves`."""
        return range(self.index << self.level, min((self.index + 1) << self.level, leaves))


def subtrees(start: int, stop: int, leaves: int) -> list[Node]:
    """The fewest subtrees that make up the run of leaves [start, stop), from left to right.

    >>> subtrees(0, 3, 6)
    [Node(level=1, index=0), Node(level=0, index=2)]
    >>> subtrees(3, 6, 6)
    [Node(level=0, index=3), Node(level=2, index=1)]
    """
    if not 0 <= start <= stop <= leaves:
        raise ValueError(f"no run [{start}, {stop}) in a tree of {leaves} leaves")
    edge = _edge(stop, leaves)
    nodes = []
    while start < stop:
        fits = (edge - start).bit_length() - 1
        level = min(fits, (start & -start).bit_length() - 1) if start else fits
        nodes.append(Node(level, start >> level))
        start += 1 << level
    return nodes


def roots(start: int, stop: int, leaves: int) -> int:
    """len(subtrees(start, stop, leaves)), without listing them.

    The run falls apart at `middle`, the multiple of the largest power of two inside it: to its left
    blocks grow, to its right they shrink, one for each set bit of the two lengths. A run up to the
    last leaf only grows, until it is past the leaves.
    """
    if start >= stop:
        return 0
    if stop < leaves:
        height = (start ^ stop).bit_length() - 1
        middle = stop >> height << height
        return (middle - start).bit_count() + (stop - middle).bit_count()
    count = 1
    while start and (start := start + (start & -start)) < leaves:
        count += 1
    return count


def deal(leaves: int, ranks: int, weights: Sequence[float] | None = None) -> list[range]:
    """A contiguous run of leaves for each rank, cut where the runs have the fewest roots in all.

    Without `weights` the lengths differ by at most one; with them, a rank's length is its share
    leaves * weight / sum(weights), rounded down or up. Ranks beyond the leaves get an empty run.
    Dynamic programming over (rank, how many were rounded up so far); among equals the earlier
    ranks get the longer runs.

    >>> deal(6, 4)
    [range(0, 2), range(2, 4), range(4, 5), range(5, 6)]
    """
    if leaves < 0 or ranks < 1:
        raise ValueError(f"cannot deal {leaves} leaves to {ranks} ranks")
    if weights is None and leaves <= ranks:
        return [range(min(r, leaves), min(r + 1, leaves)) for r in range(ranks)]
    if weights is None:
        return list(_deal(leaves, (1,) * ranks))
    if len(weights) != ranks or min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(f"weights must be {ranks} numbers >= 0 that are not all 0, not {weights}")
    return list(_deal(leaves, tuple(weights)))


@lru_cache(maxsize=64)
def _deal(leaves: int, weights: tuple[float, ...]) -> tuple[range, ...]:
    exact = [Fraction(weight) for weight in weights]
    total = sum(exact)
    shares = [leaves * weight / total for weight in exact]
    floors = [int(share) for share in shares]
    ups = leaves - sum(floors)  # that many ranks round up
    starts = [0]
    for low in floors:
        starts.append(starts[-1] + low)

    # cost[k]: fewest roots of the ranks from r on, if k ranks before r were rounded up
    never = 1 << 60
    cost = [never] * ups + [0]
    choice: list[bytes] = []
    for r in reversed(range(len(weights))):
        may_round_up = shares[r] > floors[r]
        before, after, chosen = starts[r], [never] * (ups + 1), bytearray(ups + 1)
        for k in range(max(0, ups - (len(weights) - r)), min(ups, r) + 1):
            start = before + k
            stop = start + floors[r]
            best = cost[k] + roots(start, stop, leaves) if cost[k] < never else never
            if may_round_up and k < ups and cost[k + 1] < never:
                longer = cost[k + 1] + roots(start, stop + 1, leaves)
                if longer <= best:
                    best, chosen[k] = longer, 1
            after[k] = best
        cost = after
        choice.append(bytes(chosen))

    runs, start, k = [], 0, 0
    for low, chosen_up in zip(floors, reversed(choice), strict=True):
        stop = start + low + chosen_up[k]
        k += chosen_up[k]
        runs.append(range(start, stop))
        start = stop
    return tuple(runs)


def combine_plan(nodes: Sequence[Node], leaves: int) -> list[tuple[int, int, int]]:
    """How the roots `nodes`, left to right and covering [0, leaves), are summed by the tree.

    The answer is a list of additions (into, left, right) of positions in `nodes`: the value at
    `into` becomes left + right, and position 0 has the sum at the end. `into` is `left`: a sum
    stands where its first root stood. An addition comes as soon as its operands are there if the
    roots arrive from left to right.

    >>> combine_plan(subtrees(0, 3, 6) + subtrees(3, 6, 6), 6)
    [(1, 1, 2), (0, 0, 1), (0, 0, 3)]
    """
    additions, remaining = combine_run(nodes, leaves)
    if [node.leaves(leaves) for _, node in remaining] != [range(leaves)] * (leaves > 0):
        raise ValueError(f"the roots {list(nodes)} are not the whole tree of {leaves} leaves")
    return additions


def combine_run(
    nodes: Sequence[Node], leaves: int
) -> tuple[list[tuple[int, int, int]], list[tuple[int, Node]]]:
    """`combine_plan` of the roots of one run of leaves: as far as the tree goes inside it.

    The answer has also what is left then, the `subtrees` of the run, each with its position.

    >>> combine_run(subtrees(1, 2, 8) + subtrees(2, 3, 8) + subtrees(3, 4, 8), 8)
    ([(1, 1, 2)], [(0, Node(level=0, index=1)), (1, Node(level=1, index=1))])
    """
    additions = []
    partial: list[tuple[int, Node]] = []  # sums so far, left to right
    reached = nodes[0].leaves(leaves).start if nodes else 0
    for position, node in enumerate(nodes):
        covered = node.leaves(leaves)
        if covered.start != reached or not covered:
            raise ValueError(f"root {position} covers {covered}, not a run from leaf {reached} on")
        reached = covered.stop
        where, grown = position, _highest(node, leaves)
        while partial and partial[-1][1] == Node(grown.level, grown.index ^ 1):
            left = partial.pop()[0]
            additions.append((left, left, where))
            where, grown = left, _highest(Node(grown.level + 1, grown.index >> 1), leaves)
        partial.append((where, grown))
    return additions, partial


def _edge(stop: int, leaves: int) -> int:
    """A run up to the last leaf also covers the leaves that do not exist: the next power of two."""
    return 1 << (leaves - 1).bit_length() if stop == leaves and leaves > 0 else stop


def _highest(node: Node, leaves: int) -> Node:
    """The highest node that covers the same leaves."""
    level, index = node.level, node.index
    while (1 << level) < leaves and index & 1 == 0 and (index | 1) << level >= leaves:
        level, index = level + 1, index >> 1
    return Node(level, index)
