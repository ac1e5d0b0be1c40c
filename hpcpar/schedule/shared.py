"""Collectives on symmetric arrays: the ranks of a node read, and write, each other where they lie.

Nothing is sent. Between two `Meet` of all ranks every element is written by one rank at most, and
then read by no other (`check` proves it). Large arrays go in two phases: each rank adds up its own
slice of everybody's array and puts the sum into everybody's; block by block, so that what was just
read or added is still in the cache when it is written. Small ones go in one shot: every rank adds
up everything by itself, which saves a `Meet` and touches little.

Sums are added by the tree over the ranks, as everywhere (schedule/tree.py). Partial sums stay on
their rank, in the buffer "wide", which may have a wider dtype than the arrays.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

from hpcpar.schedule.exchange import add_up, piece, split, stages
from hpcpar.schedule.one_shot import tree_over_ranks
from hpcpar.schedule.steps import OWN, Combine, Copy, Meet, Span, Step

__all__ = [
    "add_where_they_lie",
    "fetching_allreduce",
    "others",
    "shared_allgather",
    "shared_allreduce",
    "shared_bcast",
    "shared_reduce_scatter",
]

BLOCK = 1 << 15  # elements: with the operands of one addition it fits a level-2 cache

Plan = Sequence[tuple[int, int, int]]
Steps = tuple[Step, ...]
remember = lru_cache(maxsize=256)


@remember
def shared_allreduce(
    rank: int, size: int, count: int, source: str, target: str, *, block: int, one_shot: bool
) -> Steps:
    """target = the reduction of every rank's `source`; `target` may be `source`.

    In two phases both are symmetric; in one shot `target` may also be the rank's own.
    """
    if size == 1:
        return _local_copy(source, target, count)
    plan = tree_over_ranks(size)
    if one_shot:
        # In place, nobody may overwrite what another is still reading.
        landing = "sum" if target == source else target
        steps: list[Step] = [Meet()]
        for i in range(stages((range(count),), block)):
            run = piece(range(count), i, block)
            landed = Span(landing, run.start, run.stop)
            steps += add_where_they_lie(plan, _of_ranks(rank, source), run, landed)
        steps.append(Meet())
        return (*steps, *(_local_copy(landing, target, count)))
    mine = split(count, size)[rank]
    steps = [Meet()]
    for i in range(stages((mine,), block)):
        run = piece(mine, i, block)
        total = Span(target, run.start, run.stop)
        steps += add_where_they_lie(plan, _of_ranks(rank, source), run, total)
        steps += [
            Copy(Span(target, run.start, run.stop, other), total) for other in others(rank, size)
        ]
    return (*steps, Meet())


@remember
def fetching_allreduce(
    rank: int, size: int, count: int, source: str, target: str, *, block: int
) -> Steps:
    """The two phases for arrays that are copied from and to, but cannot be added where they lie.

    Every rank has come to its call before any begins. `target` may be `source`.
    """
    plan = tree_over_ranks(size)
    mine = split(count, size)[rank]
    steps: list[Step] = []
    for i in range(stages((mine,), block)):
        run = piece(mine, i, block)
        total = Span(target, run.start, run.stop)
        spans = {rank: Span(source, run.start, run.stop)}
        for slot, other in enumerate(others(rank, size)):
            spans[other] = Span("scratch", slot * block, slot * block + len(run))
            if slot == 0 and source != target:  # it is written anyway: so it need not be read first
                spans[other] = total
            steps.append(Copy(spans[other], Span(source, run.start, run.stop, other)))
        steps += add_up(plan, spans, total)
        steps += [
            Copy(Span(target, run.start, run.stop, other), total) for other in others(rank, size)
        ]
    return (*steps, Meet())


@remember
def shared_reduce_scatter(
    rank: int, size: int, counts: tuple[int, ...], source: str, *, block: int
) -> Steps:
    """out = this rank's run of the sum of every rank's `source`; rank j's has counts[j] elements.

    `out` may be the rank's own memory, apart from `source`.
    """
    start = sum(counts[:rank])
    if size == 1:
        return _local_copy(source, "out", counts[0])
    mine, plan = range(start, start + counts[rank]), tree_over_ranks(size)
    steps: list[Step] = [Meet()]
    for i in range(stages((mine,), block)):
        run = piece(mine, i, block)
        total = Span("out", run.start - start, run.stop - start)
        steps += add_where_they_lie(plan, _of_ranks(rank, source), run, total)
    return (*steps, Meet())


@remember
def shared_bcast(rank: int, size: int, count: int, root: int) -> Steps:
    """Fill the symmetric "x" with the root's: everybody copies it at the same time."""
    if size == 1:
        return ()
    whole = Span("x", 0, count)
    take = () if rank == root or not count else (Copy(whole, Span("x", 0, count, root)),)
    return (Meet(), *take, Meet())


@remember
def shared_allgather(rank: int, size: int, counts: tuple[int, ...]) -> Steps:
    """out = every rank's symmetric "x", in rank order, of which rank j's first counts[j] count."""
    starts = [sum(counts[:other]) for other in range(size)]
    copies = [
        Copy(
            Span("out", starts[other], starts[other] + counts[other]),
            Span("x", 0, counts[other], OWN if other == rank else other),
        )
        for other in (rank, *others(rank, size))
        if counts[other]
    ]
    return (*copies,) if size == 1 else (Meet(), *copies, Meet())


def add_where_they_lie(
    plan: Plan, value: Callable[[int, range], Span], run: range, total: Span
) -> list[Step]:
    """total = the sum of what `plan` adds, each value read where value(place, run) is.

    Partial sums are in "wide". Without an addition in the plan the only value is copied.
    """
    if not plan:
        return [Copy(total, value(0, run))]
    spans: dict[int, Span] = {}
    free: list[int] = []
    slots = 0
    steps: list[Step] = []

    def operand(place: int) -> Span:
        return spans[place] if place in spans else value(place, run)

    for into, left, right in plan:
        first, second = operand(left), operand(right)
        used = [span for span in (first, second) if span.buffer == "wide"]
        if used:
            target = used[0]
            free += [span.start // len(run) for span in used[1:]]
        elif free:
            slot = free.pop()
            target = Span("wide", slot * len(run), (slot + 1) * len(run))
        else:
            target = Span("wide", slots * len(run), (slots + 1) * len(run))
            slots += 1
        steps.append(Combine(target, first, second))
        spans[into] = target
    last = steps[-1]
    assert isinstance(last, Combine)
    return [*steps[:-1], Combine(total, last.left, last.right)]


def _of_ranks(rank: int, source: str) -> Callable[[int, range], Span]:
    """One value a rank: its `source`."""

    def value(place: int, run: range) -> Span:
        return Span(source, run.start, run.stop, OWN if place == rank else place)

    return value


def others(rank: int, size: int) -> list[int]:
    """The others, the next one first: so not all turn to the same rank at once."""
    return [(rank + shift) % size for shift in range(1, size)]


def _local_copy(source: str, target: str, count: int) -> Steps:
    if source == target or not count:
        return ()
    return (Copy(Span(target, 0, count), Span(source, 0, count)),)
