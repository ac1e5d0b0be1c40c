"""How partial sums meet: the patterns that reductions in tree order are made of.

Large spans travel in pieces. A pattern starts the transfers of a few pieces ahead (`AHEAD`) and
then adds them one by one, so that what has just arrived is added while the next is on its way.
"""

from collections.abc import Callable, MutableMapping, Sequence
from itertools import chain, pairwise

from hpcpar.schedule.steps import Combine, Copy, Recv, Send, Span, Step

__all__ = [
    "AHEAD",
    "SEGMENT",
    "add_up",
    "direct_tree",
    "doubling_tree",
    "piece",
    "pipeline",
    "split",
    "stages",
]

SEGMENT = 1 << 18  # elements in a message: large enough for MPI, and soon added while in the cache
AHEAD = 2


def split(count: int, parts: int) -> list[range]:
    """`count` elements in `parts` runs by numpy.array_split's rule: the first are one longer."""
    length, longer = divmod(count, parts)
    stops = [length * i + min(i, longer) for i in range(parts + 1)]
    return [range(start, stop) for start, stop in pairwise(stops)]


def piece(run: range, number: int, segment: int) -> range:
    """Piece `number` of a run cut every `segment` elements; empty beyond the end."""
    start = min(run.start + number * segment, run.stop)
    return range(start, min(start + segment, run.stop))


def stages(runs: Sequence[range], segment: int) -> int:
    """Number of pieces of the longest run."""
    return -(-max(map(len, runs), default=0) // segment)


def pipeline(
    count: int,
    start: Callable[[int], list[Step]],
    finish: Callable[[int], list[Step]],
    ahead: int = AHEAD,
) -> list[Step]:
    """start(i) and finish(i) for every i, with up to `ahead` starts before their finish."""
    steps: list[Step] = list(chain.from_iterable(start(i) for i in range(min(ahead, count))))
    for i in range(count):
        steps += finish(i)
        if i + ahead < count:
            steps += start(i + ahead)
    return steps


def direct_tree(
    rank: int,
    owners: Sequence[int],
    plan: Sequence[tuple[int, int, int]],
    names: Sequence[str],
    slices: Sequence[range],
    *,
    segment: int = SEGMENT,
    share: bool = True,
) -> list[Step]:
    """Rank j gets slice j of every root, adds them up by `plan`; to all if `share`.

    `owners` has the rank of every root, left to right; `names` the buffers of this rank's own.
    The sum goes to its place in "out"; without `share` "out" is this rank's slice alone.
    """
    size = len(slices)
    # Many roots, shorter pieces: the scratch of all pieces under way should not outgrow the cache.
    # No piece is longer than a slice, for each root has scratch for whole pieces.
    segment = min(segment, 8 * segment // max(1, len(owners)), max(map(len, slices)))
    segment = max(1, segment)
    others = [(rank + shift) % size for shift in range(1, size)]  # not all to rank 0 at once
    shift = 0 if share else slices[rank].start
    buffers = iter(names)
    own = {position: next(buffers) for position, owner in enumerate(owners) if owner == rank}
    foreign = [position for position, owner in enumerate(owners) if owner != rank]

    def places(i: int) -> dict[int, Span]:
        mine = piece(slices[rank], i, segment)
        spans = {position: Span(name, mine.start, mine.stop) for position, name in own.items()}
        landing = foreign
        if foreign and "out" not in names:  # it is written anyway: so it need not be read first
            spans[foreign[0]] = Span("out", mine.start - shift, mine.stop - shift)
            landing = foreign[1:]
        for slot, position in enumerate(landing, start=(i % AHEAD) * len(landing)):
            spans[position] = Span("scratch", slot * segment, slot * segment + len(mine))
        return spans

    def start(i: int) -> list[Step]:
        steps: list[Step] = []
        if piece(slices[rank], i, segment):
            spans = places(i)
            steps += [Recv(owners[position], spans[position]) for position in foreign]
        for other in others:
            theirs = piece(slices[other], i, segment)
            if theirs:
                steps += [Send(other, Span(name, theirs.start, theirs.stop)) for name in names]
        return steps

    def finish(i: int) -> list[Step]:
        steps: list[Step] = []
        mine = piece(slices[rank], i, segment)
        out = Span("out", mine.start - shift, mine.stop - shift)
        if mine:
            steps += add_up(plan, places(i), out)
        for other in others if share else ():
            theirs = piece(slices[other], i, segment)
            if theirs:
                steps.append(Recv(other, Span("out", theirs.start, theirs.stop)))
            if mine:
                steps.append(Send(other, out))
        return steps

    return pipeline(stages(slices, segment), start, finish)


def doubling_tree(rank: int, size: int, count: int, source: str = "x") -> list[Step]:
    """The tree in log2(size) rounds that swap everything: more volume, half the messages."""
    steps: list[Step] = []
    have, got = Span(source, 0, count), Span("scratch", 0, count)
    for distance in _powers(size):
        partner = rank ^ distance
        left, right = (have, got) if rank < partner else (got, have)
        out = Span("out", 0, count)
        steps += [Recv(partner, got), Send(partner, have), Combine(out, left, right)]
        have = out
    return steps


def add_up(
    plan: Sequence[tuple[int, int, int]], spans: MutableMapping[int, Span] | list[Span], out: Span
) -> list[Step]:
    """The additions of `plan`; the last goes to `out`, the others stay in scratch."""
    if not plan:
        return [Copy(out, spans[0])]
    steps: list[Step] = []
    for into, left, right in plan[:-1]:
        # Two neighbouring roots of one rank are never siblings, so one of the two may be written.
        target = spans[left] if spans[left].buffer in ("scratch", "out") else spans[right]
        steps.append(Combine(target, spans[left], spans[right]))
        spans[into] = target
    _, left, right = plan[-1]
    return [*steps, Combine(out, spans[left], spans[right])]


def _powers(size: int) -> list[int]:
    return [1 << k for k in range(size.bit_length() - 1)]
