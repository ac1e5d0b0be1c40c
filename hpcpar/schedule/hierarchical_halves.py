"""Reduce-scatter and allgather over nodes: what is between nodes goes once over each link.

Rank r of one node deals with one rank of each other node, its agent there: the agent collects the
sum of its node for r, or hands the values of r to its neighbours. All ranks are agents in turn.
"""

from collections.abc import Sequence

from hpcpar.schedule.exchange import SEGMENT, add_up, piece, pipeline, stages
from hpcpar.schedule.groups import agent, groups_of, interleave
from hpcpar.schedule.shape import Node, combine_plan, combine_run
from hpcpar.schedule.steps import Combine, Copy, Recv, Send, Span, Step

__all__ = ["hierarchical_allgather", "hierarchical_reduce_scatter"]


def hierarchical_allgather(
    rank: int, runs: Sequence[range], nodes: Sequence[int], segment: int = SEGMENT
) -> list[Step]:
    """out = every rank's "x", rank j's in the elements runs[j]."""
    groups = groups_of(nodes)
    home = next(group for group in groups if rank in group)
    place = home.index(rank)
    neighbours = [*home[place + 1 :], *home[:place]]
    agents = [agent(group, rank, groups) for group in groups if group is not home]

    def start(i: int) -> list[Step]:
        """What comes from a piece's own rank, and the own piece."""
        receives, sends = list[Step](), list[Step]()
        for source, run in enumerate(runs):
            part = piece(run, i, segment)
            if part and source == rank:
                mine = Span("x", part.start - run.start, part.stop - run.start)
                sends += [Send(other, mine) for other in neighbours + agents]
            elif part and (source in home or agent(home, source, groups) == rank):
                receives.append(Recv(source, Span("out", part.start, part.stop)))
        return receives + sends

    def finish(i: int) -> list[Step]:
        """What an agent hands to its neighbours."""
        receives, sends = list[Step](), list[Step]()
        for source, run in enumerate(runs):
            part = piece(run, i, segment)
            if not part or source in home:
                continue
            span, carrier = Span("out", part.start, part.stop), agent(home, source, groups)
            if carrier == rank:
                sends += [Send(other, span) for other in neighbours]
            else:
                receives.append(Recv(carrier, span))
        return receives + sends

    own = runs[rank]
    copy = Copy(Span("out", own.start, own.stop), Span("x", 0, len(own)))
    return [*([copy] if own else []), *pipeline(stages(runs, segment), start, finish)]


def hierarchical_reduce_scatter(
    rank: int, runs: Sequence[range], nodes: Sequence[int], segment: int = SEGMENT
) -> list[Step]:
    """out = the elements runs[rank] of the sum of every rank's "x".

    The order of additions is the tree over the ranks where the ranks of every node are consecutive,
    otherwise that over the ranks in the order of their nodes.
    """
    segment = max(1, min(segment, 8 * segment // len(nodes)))
    worker = _Collector(rank, nodes, segment)
    count = stages(runs, segment)
    pieces = [[piece(run, i, segment) for run in runs] for i in range(count)]
    lags = [0, 1, 3]
    room = max((worker.block(parts, 0, runs)[1] for parts in pieces[:1]), default=0)
    blocks = [
        worker.block(parts, room * (i % (lags[-1] + 1)), runs)[0] for i, parts in enumerate(pieces)
    ]
    return interleave(blocks, lags)


class _Collector:
    """One rank's part in adding up, for itself and as an agent of others."""

    def __init__(self, rank: int, nodes: Sequence[int], segment: int) -> None:
        self.rank, self.segment, self.groups = rank, segment, groups_of(nodes)
        self.home = next(group for group in self.groups if rank in group)
        self.home_number = self.groups.index(self.home)
        size, start = len(nodes), 0
        self.inside, self.left = [], []
        roots: list[Node] = []
        for group in self.groups:
            leaves = [Node(0, start + i) for i in range(len(group))]
            additions, left = combine_run(leaves, size)
            self.inside.append(additions)
            self.left.append([position for position, _ in left])
            roots += [node for _, node in left]
            start += len(group)
        self.between = combine_plan(roots, size)
        place = self.home.index(rank)
        self.neighbours = [*self.home[place + 1 :], *self.home[:place]]

    def block(
        self, parts: Sequence[range], base: int, runs: Sequence[range]
    ) -> tuple[list[list[Step]], int]:
        """The three stages for one piece of every run, and where the scratch memory ends."""
        first, second, third = list[Step](), list[Step](), list[Step]()
        top = base

        def take(count: int) -> Span:
            nonlocal top
            top += count
            return Span("scratch", top - count, top)

        mine = [to for to, part in enumerate(parts) if part and self._collector(to) == self.rank]
        values = {
            to: {self.home.index(self.rank): Span("x", parts[to].start, parts[to].stop)}
            for to in mine
        }
        for other in self.neighbours:
            for to in mine:
                span = values[to][self.home.index(other)] = take(len(parts[to]))
                first.append(Recv(other, span))
        for other in self.neighbours:
            for to, part in enumerate(parts):
                if part and self._collector(to) == other:
                    first.append(Send(other, Span("x", part.start, part.stop)))
        for to in mine:
            for into, left, right in self.inside[self.home_number]:
                operands = values[to][left], values[to][right]
                target = next(span for span in operands if span.buffer == "scratch")
                second.append(Combine(target, *operands))
                values[to][into] = target
            roots = [values[to][position] for position in self.left[self.home_number]]
            if to != self.rank:
                second += [Send(to, root) for root in roots]
                continue
            everything: list[Span] = []
            for number, group in enumerate(self.groups):
                if number == self.home_number:
                    everything += roots
                    continue
                for _ in self.left[number]:
                    everything.append(take(len(parts[to])))
                    second.append(Recv(agent(group, to, self.groups), everything[-1]))
            shift = runs[to].start
            out = Span("out", parts[to].start - shift, parts[to].stop - shift)
            third += add_up(self.between, everything, out)
        return [first, second, third], top

    def _collector(self, to: int) -> int:
        """Who of this node adds up what goes to rank `to`."""
        return to if to in self.home else agent(self.home, to, self.groups)
