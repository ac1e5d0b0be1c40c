"""Proves schedules right, or runs them on arrays, without MPI: all ranks in one process.

What passes here does not depend on how much a network buffers, nor on timing (`play.py`). Where
ranks touch each other's memory, timing is kept out by `Meet`: between two of them, what one rank
writes no other may touch.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hpcpar.schedule.play import Play, ScheduleError, Schedules, where
from hpcpar.schedule.steps import OWN, Combine, Copy, Meet, Recv, Send, Span, Step, reads, writes

__all__ = ["ScheduleError", "check", "simulate"]

Sizes = Mapping[str, int]


def check(schedules: Schedules, sizes: Sizes | Sequence[Sizes] | None = None) -> None:
    """Raise `ScheduleError` unless the schedules of all ranks fit together and run to their end.

    Found are a send or a receive without its counterpart, counterparts of different length, a
    circular wait, a span outside its buffer, operands that do not match, and ranks that touch the
    same memory without a `Meet` between them. `sizes` has the length
    of every buffer, for all ranks or one mapping for each; buffers it does not name (or all, when
    it is None) are as long as they need to be.
    """
    for rank, steps in enumerate(schedules):
        own = {} if sizes is None else sizes if isinstance(sizes, Mapping) else sizes[rank]
        for number, step in enumerate(steps):
            fault = _fault(step, own, len(schedules))
            if fault:
                raise ScheduleError(f"{where(rank, number, step)}: {fault}")
    _races(schedules)
    Play(schedules, lambda sender, send, receiver, recv: None, lambda rank, step: None).run()


def simulate(
    schedules: Schedules,
    buffers: Sequence[Mapping[str, Any]],
    op: Callable[[Any, Any], Any],
) -> None:
    """Run the schedules on flat arrays, in place; `op(left, right)` is what `Combine` does.

    Every buffer that the schedules name must be there, "scratch" too. A transfer moves its data as
    late as it may, when somebody waits for it: a missing dependency shows in the values.
    """

    def move(sender: int, send: Send, receiver: int, recv: Recv) -> None:
        source = buffers[sender][send.span.buffer][send.span.start : send.span.stop]
        buffers[receiver][recv.span.buffer][recv.span.start : recv.span.stop] = source

    def compute(rank: int, step: Combine | Copy) -> None:
        def view(span: Span) -> Any:
            owner = rank if span.rank == OWN else span.rank
            return buffers[owner][span.buffer][span.start : span.stop]

        if isinstance(step, Copy):
            view(step.into)[...] = view(step.source)
        else:
            view(step.into)[...] = op(view(step.left), view(step.right))

    Play(schedules, move, compute).run()


def _fault(step: Step, sizes: Sizes, ranks: int) -> str:
    """What is wrong with one step by itself, or an empty string."""
    spans = reads(step) + writes(step)
    for span in spans:
        if not OWN <= span.rank < ranks:
            return f"there is no rank {span.rank} among {ranks}"
        if not 0 <= span.start <= span.stop <= sizes.get(span.buffer, span.stop):
            return f"{span} is outside its buffer of {sizes.get(span.buffer, '?')} elements"
    if len({len(span) for span in spans}) > 1:
        return "the lengths differ"
    if isinstance(step, Send | Recv):
        peer = step.to if isinstance(step, Send) else step.source
        return "" if 0 <= peer < ranks else f"there is no rank {peer} among {ranks}"
    for span in reads(step):
        for into in writes(step):
            if span.overlaps(into) and span != into:
                return f"{into} and {span} overlap in part"
    return ""


def _races(schedules: Schedules) -> None:
    """Raise where two ranks touch the same memory between two meetings, and one of them writes."""
    touched: dict[tuple[int, int, str], list[tuple[int, int, bool, int, int]]] = defaultdict(list)
    for rank, steps in enumerate(schedules):
        meetings = 0
        for number, step in enumerate(steps):
            meetings += isinstance(step, Meet)
            for spans, written in ((reads(step), False), (writes(step), True)):
                for span in spans:
                    if len(span):
                        owner = rank if span.rank == OWN else span.rank
                        there = touched[meetings, owner, span.buffer]
                        there.append((span.start, span.stop, written, rank, number))
    for accesses in touched.values():
        if len({rank for _, _, _, rank, _ in accesses}) == 1:
            continue
        # From left to right; of those met so far the ones that reach furthest, of any two ranks.
        reach: list[dict[int, tuple[int, int]]] = [{}, {}]  # rank -> (stop, step), read and written
        for start, stop, written, rank, number in sorted(accesses):
            for kind in (False, True):
                for other, (end, theirs) in reach[kind].items():
                    if other != rank and end > start and (written or kind):
                        raise ScheduleError(
                            f"{where(rank, number, schedules[rank][number])} and "
                            f"{where(other, theirs, schedules[other][theirs])} touch the same "
                            "memory without a meeting between them"
                        )
            furthest = reach[written].get(rank, (0, 0))
            reach[written][rank] = max(furthest, (stop, number))
