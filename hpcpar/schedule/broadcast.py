"""Broadcasts: a binomial tree, a pipelined chain, and slices over nodes. All fill "x" everywhere.

Large arrays travel in pieces, and every rank passes a piece on as soon as it is there. A rank that
passes on receives two pieces at a time: if all were under way at once, they would share the link
and all be there at the end.
"""

from collections.abc import Sequence

from hpcpar.schedule.exchange import AHEAD, SEGMENT, piece, pipeline, split, stages
from hpcpar.schedule.groups import block_length, groups_of, shares, slices
from hpcpar.schedule.steps import Recv, Send, Span, Step

__all__ = ["bcast_chain", "bcast_hierarchical", "bcast_line", "bcast_tree", "prefers_chain"]


def bcast_line(size: int, root: int, nodes: Sequence[int] | None = None) -> list[int]:
    """All ranks in the order in which a broadcast goes: the root first, node after node.

    >>> bcast_line(6, 3, (0, 0, 1, 1, 0, 1))
    [3, 5, 2, 0, 1, 4]
    """
    return [rank for group in _groups(size, root, nodes) for rank in group]


def prefers_chain(size: int, count: int, segment: int = SEGMENT) -> bool:
    """Whether a chain is done before a tree, by the number of pieces that are sent in turn."""
    pieces = stages((range(count),), segment)
    return AHEAD * (size - 2) + pieces < pieces * (size - 1).bit_length()


def bcast_tree(rank: int, line: Sequence[int], count: int, segment: int = SEGMENT) -> list[Step]:
    """Down a binomial tree over the places in `line`: log2(size) hops."""
    spans, place, size = _spans(count, segment), line.index(rank), len(line)
    reach = place & -place if place else 1 << (size - 1).bit_length()
    before = line[place - reach] if place else -1
    children = []
    while (reach := reach >> 1) > 0:
        if place + reach < size:
            children.append(line[place + reach])
    return _pass_on(spans, before, children)


def bcast_chain(rank: int, line: Sequence[int], count: int, segment: int = SEGMENT) -> list[Step]:
    """From each to the next: nobody sends more than the array once.

    Where neighbours on a node are neighbours in the line, so does no link between nodes.
    """
    place = line.index(rank)
    before = line[place - 1] if place else -1
    return _pass_on(_spans(count, segment), before, line[place + 1 : place + 2])


def bcast_hierarchical(
    rank: int, root: int, count: int, nodes: Sequence[int], segment: int = SEGMENT
) -> list[Step]:
    """Every rank of a node carries a slice to the next node, and shares it with its neighbours.

    The nodes stand in a chain, or in a binomial tree where there are few pieces.
    """
    groups = _groups(len(nodes), root, nodes)
    number = next(i for i, group in enumerate(groups) if rank in group)
    blocks = split(count, -(-count // block_length(segment, groups))) if count else []
    before, after = _neighbours(number, len(groups), chain=len(groups) <= len(blocks) + 2)
    parts: list[tuple[list[Step], list[Step]]] = []
    for block in blocks:
        receives: list[Step] = []
        sends: list[Step] = []
        own = dict(zip(groups[number], slices(block, groups[number]), strict=True))
        for part, owners in shares(block, groups):
            if owners[number] == rank and part:
                span = Span("x", part.start, part.stop)
                if number:
                    receives.append(Recv(owners[before], span))
                sends += [Send(owners[to], span) for to in after]
        _share(rank, root if number == 0 else -1, own, receives, sends)
        parts.append((receives, sends))
    return pipeline(len(parts), lambda i: parts[i][0], lambda i: parts[i][1])


def _pass_on(spans: Sequence[Span], before: int, after: Sequence[int]) -> list[Step]:
    """Receive pieces from `before`, unless that is -1, and send each to all of `after`."""

    def start(i: int) -> list[Step]:
        return [Recv(before, spans[i])] if before >= 0 else []

    return pipeline(len(spans), start, lambda i: [Send(to, spans[i]) for to in after])


def _share(
    rank: int, root: int, own: dict[int, range], receives: list[Step], sends: list[Step]
) -> None:
    """Slices go round inside a node; on the root's node they come from the root first."""
    members = list(own)
    place = members.index(rank)
    others = [other for other in members[place + 1 :] + members[:place] if other != root]
    spans = {member: Span("x", run.start, run.stop) for member, run in own.items() if run}
    if rank == root:  # what the neighbours are to carry leaves first
        sends += [Send(other, spans[other]) for other in others if other in spans]
    else:
        from_root = (rank, root) if root in own else ()
        receives += [Recv(root, spans[which]) for which in from_root if which in spans]
        receives += [Recv(other, spans[other]) for other in reversed(others) if other in spans]
    if rank in spans:
        sends += [Send(other, spans[rank]) for other in others]


def _neighbours(number: int, count: int, chain: bool) -> tuple[int, list[int]]:
    """Which node's data comes to this one, and to which it goes on."""
    if chain:
        return number - 1, [number + 1] if number + 1 < count else []
    reach = number & -number if number else 1 << (count - 1).bit_length()
    before, after = number - reach, []
    while (reach := reach >> 1) > 0:
        if number + reach < count:
            after.append(number + reach)
    return before, after


def _groups(size: int, root: int, nodes: Sequence[int] | None) -> list[list[int]]:
    """The ranks by nodes: the root's node first, and in each node round from the root's place."""
    groups = groups_of(nodes if nodes is not None else [0] * size)
    first = next(i for i, group in enumerate(groups) if root in group)
    turned = groups[first:] + groups[:first]
    place = turned[0].index(root)
    turned[0] = turned[0][place:] + turned[0][:place]
    return turned


def _spans(count: int, segment: int) -> list[Span]:
    runs = (piece(range(count), i, segment) for i in range(stages((range(count),), segment)))
    return [Span("x", run.start, run.stop) for run in runs]
