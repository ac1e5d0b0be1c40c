"""Recursive halving and doubling for any number of ranks, and for any runs of leaves.

On the way up a partial sum is spread over the ranks that have leaves under it: each element has one
owner. Where two partial sums meet, every element has an owner on the left and one on the right; one
of them hands its value over and the other adds, left + right, and is the owner from then on. They
share the elements that both own in the proportion of their sides' ranks, so that every rank of the
sum owns about as much as the others. On the way down the same pairs hand the results back.

For a power of two of ranks with one leaf each this is recursive halving, nearest partner first, and
doubling (Rabenseifner 2004; Thakur, Rabenseifner and Gropp 2005). For other numbers the right edge
of the tree folds in block by block, as in Rabenseifner's binary blocks; but as the shares follow
the number of ranks, a rank with one leaf sends (1 - 1 / size) * count elements up and as many down,
the least there is, for every size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from hpcpar.schedule.exchange import AHEAD, SEGMENT, piece, pipeline, stages
from hpcpar.schedule.steps import Combine, Copy, Recv, Send, Span, Step

__all__ = ["ASIDE", "OUT", "Meeting", "Part", "Return", "halving_tree", "meetings"]

GRAIN = 256  # elements: what both own is not cut into less, for a message costs more than that

OUT, ASIDE = -1, -2  # where a partial sum lies; roots have numbers from 0 on

Additions = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Meeting:
    """What one rank does on the way up where its values meet a peer's."""

    round: int
    peer: int  # the rank itself, where it owns both sides
    keep: range  # elements whose values come from the peer and are added
    give: range  # elements whose values go to the peer
    left: bool  # this rank's value is the left operand
    have: int  # where this rank's values lie: OUT, ASIDE or the number of a root of its own
    other: int  # where the right operand lies, if the peer is the rank itself
    into: int  # where the sum goes: OUT or ASIDE


@dataclass(frozen=True, slots=True)
class Return:
    """What one rank does on the way down: results arrive from the peer, and leave for it."""

    round: int
    peer: int
    arrive: range
    leave: range


@dataclass(frozen=True, slots=True)
class Part:
    """One rank's part: the way up in order of rounds, copies to OUT, the way down."""

    up: tuple[Meeting, ...]
    copies: tuple[tuple[int, range], ...]  # (root number, elements)
    down: tuple[Return, ...]
    rounds: int  # of the way up and of the way down each, the same for all ranks

    @property
    def aside(self) -> bool:
        """Whether a partial sum lies ASIDE at some time."""
        return any(meeting.into == ASIDE for meeting in self.up)


Piece = tuple[int, int, int, int]  # start, stop, owner, where


@lru_cache(maxsize=32)
def meetings(
    count: int, size: int, owners: tuple[int, ...], additions: Additions, grain: int = GRAIN
) -> tuple[Part, ...]:
    """The parts of all ranks in summing `count` elements of the roots by `additions`.

    `owners` has the rank of every root, left to right, and `additions` is their `combine_plan`.
    A rank without a root gets the result from one that has. Every rank that goes through its
    meetings round by round, in the order given, starts what a peer waits for before it waits.
    """
    first = [owners.index(rank) if rank in owners else -1 for rank in range(size)]
    values: dict[int, list[Piece]] = {
        position: [(0, count, owner, position - first[owner])] if count else []
        for position, owner in enumerate(owners)
    }
    members = {position: {owner} for position, owner in enumerate(owners)}
    height = [0] * len(owners)
    up: list[list[Meeting]] = [[] for _ in range(size)]
    pairs: list[tuple[int, int, int, range, range]] = []  # round, left, right, what each kept
    for into, left, right in additions:
        round_ = height[into] = 1 + max(height[left], height[right])
        many, more = len(members[left]), len(members[right])
        members[into] = members[left] | members.pop(right)
        merged: list[Piece] = []
        for start, stop, (a, at_a), (b, at_b) in _overlaps(values[left], values.pop(right)):
            # Only the two ends of a rank's run can be in two sums at once: the later one, aside.
            to_a, to_b = (OUT if first[rank] >= into else ASIDE for rank in (a, b))
            cut = stop if a == b else _cut(start, stop, many, more, grain)
            kept, given = range(start, cut), range(cut, stop)
            up[a].append(Meeting(round_, b, kept, given, True, at_a, at_b, to_a))
            if a != b:
                up[b].append(Meeting(round_, a, given, kept, False, at_b, at_b, to_b))
                pairs.append((round_, a, b, kept, given))
            _append(merged, (start, cut, a, to_a))
            _append(merged, (cut, stop, b, to_b))
        values[into] = merged
    rounds = max(height, default=0)
    down = _returns(size, owners, values[0], pairs)
    copies: list[list[tuple[int, range]]] = [[] for _ in range(size)]
    for start, stop, owner, where in values[0]:
        if where >= 0:  # nothing was added: the only root is the result
            copies[owner].append((where, range(start, stop)))
    without = [rank for rank in range(size) if first[rank] < 0]
    having = sorted(set(owners))
    for i, rank in enumerate(without if count else ()):
        source = having[i % len(having)]
        down[source].append(Return(0, rank, range(0), range(count)))
        down[rank].append(Return(0, source, range(count), range(0)))
    return tuple(
        Part(tuple(sorted(mine, key=_place)), tuple(copies[rank]), tuple(down[rank]), rounds)
        for rank, mine in enumerate(up)
    )  # fmt: skip


def halving_tree(
    rank: int,
    size: int,
    count: int,
    owners: Sequence[int],
    plan: Sequence[tuple[int, int, int]],
    names: Sequence[str],
    segment: int = SEGMENT,
) -> list[Step]:
    """This rank's steps: its roots are in the buffers `names`, the sum goes to "out"."""
    part = meetings(count, size, tuple(owners), tuple(plan))[rank]
    below = AHEAD * segment  # of what lies aside, in "scratch"

    def span(where: int, run: range) -> Span:
        if where == ASIDE:
            return Span("scratch", below + run.start, below + run.stop)
        return Span("out" if where == OUT else names[where], run.start, run.stop)

    steps: list[Step] = []
    for round_ in range(1, part.rounds + 1):
        steps += _meet([m for m in part.up if m.round == round_], rank, span, segment)
    steps += [Copy(span(OUT, run), span(where, run)) for where, run in part.copies
              if span(where, run) != span(OUT, run)]  # fmt: skip
    for item in part.down:
        for i in range(stages((item.arrive, item.leave), segment)):
            arrives, leaves = piece(item.arrive, i, segment), piece(item.leave, i, segment)
            if arrives:
                steps.append(Recv(item.peer, span(OUT, arrives)))
            if leaves:
                steps.append(Send(item.peer, span(OUT, leaves)))
    return steps


def _meet(
    items: Sequence[Meeting], rank: int, span: Callable[[int, range], Span], segment: int
) -> list[Step]:
    """One round on the way up; as many pieces are under way as the scratch memory has room for."""
    parts = [
        (meeting, piece(meeting.keep, i, segment), piece(meeting.give, i, segment))
        for meeting in items
        for i in range(stages((meeting.keep, meeting.give), segment))
    ]
    width = max((len(keep) for _, keep, _ in parts), default=0)
    ahead = max(AHEAD, AHEAD * segment // max(1, width))

    def slot(i: int) -> Span:
        base = (i % ahead) * width
        return Span("scratch", base, base + len(parts[i][1]))

    def start(i: int) -> list[Step]:
        meeting, keep, give = parts[i]
        if meeting.peer == rank:
            return []
        steps: list[Step] = [Recv(meeting.peer, slot(i))] if keep else []
        return [*steps, Send(meeting.peer, span(meeting.have, give))] if give else steps

    def finish(i: int) -> list[Step]:
        meeting, keep, _ = parts[i]
        if not keep:
            return []
        own = span(meeting.have, keep)
        other = span(meeting.other, keep) if meeting.peer == rank else slot(i)
        operands = (own, other) if meeting.left else (other, own)
        return [Combine(span(meeting.into, keep), *operands)]

    return pipeline(len(parts), start, finish, ahead)


def _returns(
    size: int,
    owners: Sequence[int],
    result: Sequence[Piece],
    pairs: Sequence[tuple[int, int, int, range, range]],
) -> list[list[Return]]:
    """The way down: what was given up comes back, unless it has come to the rank before."""
    several = {owner for owner, other in pairwise(owners) if owner == other}
    has: dict[int, list[range]] = {rank: [] for rank in several}
    for start, stop, owner, _ in result:
        if owner in has:
            has[owner].append(range(start, stop))

    def missing(rank: int, run: range) -> list[range]:
        if rank not in has:
            return [run] if run else []
        found = _without(run, has[rank])
        has[rank] += found
        return found

    down: list[list[Return]] = [[] for _ in range(size)]
    for round_, a, b, kept, given in sorted(pairs, key=lambda pair: (-pair[0], pair[3].start)):
        to_a, to_b = missing(a, given), missing(b, kept)
        for i in range(max(len(to_a), len(to_b))):
            for_a = to_a[i] if i < len(to_a) else range(0)
            for_b = to_b[i] if i < len(to_b) else range(0)
            down[a].append(Return(round_, b, for_a, for_b))
            down[b].append(Return(round_, a, for_b, for_a))
    return down


def _overlaps(
    left: Sequence[Piece], right: Sequence[Piece]
) -> Iterator[tuple[int, int, tuple[int, int], tuple[int, int]]]:
    """The longest runs that have one owner on either side: start, stop, (owner, where) of both."""
    i = j = 0
    while i < len(left) and j < len(right):
        start, stop = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        yield start, stop, left[i][2:], right[j][2:]
        ended = left[i][1] == stop, right[j][1] == stop
        i, j = i + ended[0], j + ended[1]


def _cut(start: int, stop: int, many: int, more: int, grain: int) -> int:
    """Up to where the left one keeps it: the sides have `many` and `more` ranks."""
    cut = start - (-(stop - start) * many // (many + more))  # rounded up
    if min(cut - start, stop - cut) >= grain:
        return cut
    return stop if many >= more else start


def _append(pieces: list[Piece], new: Piece) -> None:
    if pieces and pieces[-1][1] == new[0] and pieces[-1][2:] == new[2:]:
        new = (pieces.pop()[0], *new[1:])
    if new[0] < new[1]:
        pieces.append(new)


def _without(run: range, has: Sequence[range]) -> list[range]:
    """What of `run` is in none of `has`."""
    left = [run] if run else []
    for other in has:
        left = [
            rest
            for part in left
            for rest in (
                range(part.start, min(part.stop, max(part.start, other.start))),
                range(max(part.start, min(part.stop, other.stop)), part.stop),
            )
            if rest
        ]
    return left


def _place(meeting: Meeting) -> tuple[int, int, bool]:
    return meeting.round, min(meeting.keep.start, meeting.give.start), meeting.left
