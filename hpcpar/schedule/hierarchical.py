"""Allreduce over nodes: inside the node, between nodes, inside the node.

A link between nodes is slow, and the ranks of a node share it; so what goes over it is added up
inside the node first. Every rank of a node carries a slice: it gets that slice of its neighbours'
values and adds them up, does the same among those who carry these elements on the other nodes, and
gives the result to its neighbours. Between nodes the elements are halved again and again
(halving.py, with nodes for ranks) where the nodes' sums are one level of the tree, or where there
are many; a direct exchange (every node adds up its share) moves less for other numbers. A node
sends, and receives, 2 (n - 1) / n * count elements if its ranks make up one subtree: the least
there is for n nodes.

Large arrays go through these stages block by block, several blocks at a time (`interleave`): the
link between nodes is busy while other blocks are added up inside.

The order of additions is the tree over the leaves. Where the run of a node is not one subtree, the
roots of the complete subtrees inside it travel, each like a sum of its own.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

from hpcpar.schedule.exchange import SEGMENT, add_up, split
from hpcpar.schedule.groups import block_length, groups_of, interleave, shares, slices
from hpcpar.schedule.halving import ASIDE, OUT, Meeting, Part, meetings
from hpcpar.schedule.shape import Node, combine_plan, combine_run
from hpcpar.schedule.steps import Combine, Copy, Recv, Send, Span, Step

__all__ = ["hierarchical_ranks", "hierarchical_tree"]

FEW = 16  # nodes among which each speaks with each other

Additions = tuple[tuple[int, int, int], ...]


def hierarchical_ranks(
    rank: int, count: int, nodes: tuple[int, ...], source: str = "x", segment: int = SEGMENT
) -> list[Step]:
    """out = the sum of every rank's `source`.

    The tree is that over the ranks where the ranks of every node are consecutive; otherwise it is
    that over the ranks in the order of their nodes, which has other bits.
    """
    order = [member for group in groups_of(nodes) for member in group]
    place = {member: i for i, member in enumerate(order)}
    trees = [[Node(0, place[member])] for member in range(len(nodes))]
    return hierarchical_tree(rank, count, trees, len(nodes), [source], nodes, segment)


def hierarchical_tree(
    rank: int,
    count: int,
    trees: Sequence[Sequence[Node]],
    leaves: int,
    names: Sequence[str],
    nodes: tuple[int, ...],
    segment: int = SEGMENT,
) -> list[Step]:
    """out = the sum of the roots `trees` of all ranks; this rank's are in the buffers `names`.

    Node after node, the roots stand from left to right. Raises ValueError where they do not.
    """
    if count == 0:
        return []
    world = _world(tuple(map(tuple, trees)), leaves, nodes)
    blocks = split(count, -(-count // block_length(segment, world.groups)))
    lags = [max(0, 2 * stage - 1) for stage in range(world.stages)]
    # Blocks differ by one element at most, and what a block needs depends on its length alone.
    room = max(_Block(world, rank, names, run, 0).top for run in (blocks[0], blocks[-1]))
    return interleave(
        [
            _Block(world, rank, names, run, room * (i % (lags[-1] + 1))).stages
            for i, run in enumerate(blocks)
        ],
        lags,
    )


class _World:
    """What all ranks know: who is where, and the order of additions in the nodes and between."""

    def __init__(self, trees: Sequence[Sequence[Node]], leaves: int, nodes: Sequence[int]) -> None:
        self.groups = groups_of(nodes)
        self.owners: list[list[int]] = []  # by node: the rank of every root of its ranks
        self.inside: list[list[tuple[int, int, int]]] = []  # by node: additions
        self.left: list[list[int]] = []  # by node: the positions of what is left then
        roots: list[Node] = []
        carriers: list[int] = []
        for number, group in enumerate(self.groups):
            additions, left = combine_run([root for r in group for root in trees[r]], leaves)
            self.owners.append([r for r in group for _ in trees[r]])
            self.inside.append(additions)
            self.left.append([position for position, _ in left])
            roots += [node for _, node in left]
            carriers += [number] * len(left)
        self.carriers = tuple(carriers)  # the node of every root that travels
        self.between: Additions = tuple(combine_plan(roots, leaves))
        number = len(self.groups)
        level = number & (number - 1) == 0 and self.carriers == tuple(range(number))
        self.direct = 1 < number <= FEW and not (level and len({n.level for n in roots}) == 1)
        self.rounds = 1
        if not self.direct:
            self.rounds = meetings(1, number, self.carriers, self.between)[0].rounds
        missing = len(set(carriers)) < number  # a node without a root is fed at last
        self.stages = 2 * self.rounds + 2 + (missing and not self.direct)

    def parts(self, count: int) -> tuple[Part, ...]:
        """What every node does with so many elements."""
        return meetings(count, len(self.groups), self.carriers, self.between)


_world = lru_cache(maxsize=16)(_World)


class _Block:
    """The stages of one block of elements on one rank.

    0: slices leave for the neighbours. 1: the own slice is added up; round 1 with other nodes
    starts. 1 + k: the sums of round k; round k + 1 starts, or the way down. The last one: the
    finished slice leaves for the neighbours.
    """

    def __init__(
        self, world: _World, rank: int, names: Sequence[str], run: range, base: int
    ) -> None:
        self.world, self.rank, self.names, self.top = world, rank, names, base
        self.number = next(i for i, group in enumerate(world.groups) if rank in group)
        self.group = world.groups[self.number]
        self.stages: list[list[Step]] = [[] for _ in range(world.stages)]
        self.slices = dict(zip(self.group, slices(run, self.group), strict=True))
        place = self.group.index(rank)
        self.neighbours = [*self.group[place + 1 :], *self.group[:place]]
        roots = self._inside()
        for part, owners in shares(run, world.groups):
            if owners[self.number] == rank:
                begin = part.start - self.slices[rank].start
                cut = [Span(root.buffer, root.start + begin, root.start + begin + len(part))
                       for root in roots]  # fmt: skip
                exchange = self._direct if world.direct else self._halving
                exchange(part, owners, cut)
        self._share()

    def _take(self, count: int) -> Span:
        """Scratch memory of this block's own."""
        self.top += count
        return Span("scratch", self.top - count, self.top)

    def _inside(self) -> list[Span]:
        """The roots that travel, for the own slice."""
        world, own = self.world, self.slices[self.rank]
        owners, first, second = world.owners[self.number], self.stages[0], self.stages[1]
        values: dict[int, Span] = {}
        for position, owner in enumerate(owners):
            if owner == self.rank:
                name = self.names[position - owners.index(owner)]
                values[position] = Span(name, own.start, own.stop)
        for other in self.neighbours:
            for position, owner in enumerate(owners):
                if owner == other:
                    values[position] = self._take(len(own))
                    if own:
                        first.append(Recv(other, values[position]))
        for other in self.neighbours:
            theirs = self.slices[other]
            first += [Send(other, Span(name, theirs.start, theirs.stop)) for name in self.names
                      if theirs]  # fmt: skip
        for into, left, right in world.inside[self.number] if own else ():
            operands = values[left], values[right]
            # Two neighbouring roots of one rank are never siblings: one of the two is in scratch.
            target = next(span for span in operands if span.buffer == "scratch")
            second.append(Combine(target, *operands))
            values[into] = target
        roots = [values[position] for position in world.left[self.number]]
        for i, root in enumerate(roots if len(roots) > 1 and own else ()):
            if root.buffer == "out":  # where the sums of the other roots will go
                roots[i] = self._take(len(own))
                second.append(Copy(roots[i], root))
        return roots

    def _direct(self, run: range, owners: Sequence[int], roots: Sequence[Span]) -> None:
        """Every node adds up its share of the elements `run`, and all get it."""
        start, finish = self.stages[1], self.stages[2]
        cuts = split(len(run), len(owners))
        mine, mine_only = cuts[self.number], iter(roots)
        values: list[Span] = []
        for carrier in self.world.carriers if mine else ():
            if carrier == self.number:
                values.append(_within(next(mine_only), mine))
            else:
                values.append(self._take(len(mine)))
                start.append(Recv(owners[carrier], values[-1]))
        others = [*range(self.number + 1, len(owners)), *range(self.number)]
        for other in others if roots else ():
            start += [Send(owners[other], _within(root, cuts[other])) for root in roots
                      if cuts[other]]  # fmt: skip
        out = Span("out", run.start, run.stop)
        if mine:
            finish += add_up(self.world.between, values, _within(out, mine))
        for other in others:
            if cuts[other]:
                finish.append(Recv(owners[other], _within(out, cuts[other])))
            if mine:
                finish.append(Send(owners[other], _within(out, mine)))

    def _halving(self, run: range, owners: Sequence[int], roots: Sequence[Span]) -> None:
        """The elements `run` are halved again and again among the nodes, and doubled."""
        part = self.world.parts(len(run))[self.number]
        aside = self._take(len(run) if part.aside else 0)
        out = Span("out", run.start, run.stop)

        def span(where: int, of: range) -> Span:
            return _within(out if where == OUT else aside if where == ASIDE else roots[where], of)

        for meeting in part.up:
            self._meet(meeting, owners[meeting.peer], span)
        for where, of in part.copies:
            if span(where, of) != span(OUT, of):
                self.stages[part.rounds + 1].append(Copy(span(OUT, of), span(where, of)))
        for item in part.down:
            stage = self.stages[2 * part.rounds + 1 - item.round]
            if item.arrive:
                stage.append(Recv(owners[item.peer], span(OUT, item.arrive)))
            if item.leave:
                stage.append(Send(owners[item.peer], span(OUT, item.leave)))

    def _meet(self, meeting: Meeting, peer: int, span: Callable[[int, range], Span]) -> None:
        """One meeting on the way up: started in the stage of its round, added up in the next."""
        start, finish = self.stages[meeting.round], self.stages[meeting.round + 1]
        own = span(meeting.have, meeting.keep)
        if peer == self.rank:
            other = span(meeting.other, meeting.keep)
        else:
            other = self._take(len(meeting.keep))
            if meeting.keep:
                start.append(Recv(peer, other))
            if meeting.give:
                start.append(Send(peer, span(meeting.have, meeting.give)))
        if meeting.keep:
            operands = (own, other) if meeting.left else (other, own)
            finish.append(Combine(span(meeting.into, meeting.keep), *operands))

    def _share(self) -> None:
        """The finished slices go round inside the node."""
        own, last = self.slices[self.rank], self.stages[-1]
        for other in reversed(self.neighbours):
            theirs = self.slices[other]
            if theirs:
                last.append(Recv(other, Span("out", theirs.start, theirs.stop)))
        for other in self.neighbours if own else ():
            last.append(Send(other, Span("out", own.start, own.stop)))


def _within(span: Span, run: range) -> Span:
    """The elements `run` of `span`."""
    return Span(span.buffer, span.start + run.start, span.start + run.stop)
