"""Proves schedules right, or runs them on arrays, without MPI: all ranks in one process.

Sends are taken to be synchronous: one is over when its receive has started, and not before. So what
passes here does not depend on how much a network buffers. The steps of a rank happen in program
order and sends meet receives in order, therefore the outcome does not depend on timing either: if
the ranks get stuck in one interleaving, they get stuck in all.

Where ranks touch each other's memory, timing is kept out by `Meet`: between two of them, what one
rank writes no other may touch.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hpcpar.schedule.steps import (
    OWN,
    Combine,
    Copy,
    Meet,
    Recv,
    Send,
    Span,
    Step,
    dependencies,
    reads,
    writes,
)

__all__ = ["ScheduleError", "check", "simulate"]

Schedules = Sequence[Sequence[Step]]
Sizes = Mapping[str, int]


class ScheduleError(ValueError):
    """A fault in a schedule: which ranks, which steps, what is wrong."""


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
                raise ScheduleError(f"{_where(rank, number, step)}: {fault}")
    _races(schedules)
    _Play(schedules, lambda sender, send, receiver, recv: None, lambda rank, step: None).run()


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

    _Play(schedules, move, compute).run()


class _Transfer:
    """A send and the receive it meets; one of them may be missing so far."""

    __slots__ = ("moved", "recv", "send")

    def __init__(self) -> None:
        self.send: int | None = None  # step numbers, in the sender's and the receiver's schedule
        self.recv: int | None = None
        self.moved = False


class _Play:
    """All ranks, each as far as it can get."""

    def __init__(
        self,
        schedules: Schedules,
        move: Callable[[int, Send, int, Recv], None],
        compute: Callable[[int, Combine | Copy], None],
    ) -> None:
        self.schedules, self.move, self.compute = schedules, move, compute
        self.waits = [dependencies(steps) for steps in schedules]
        self.at = [0] * len(schedules)  # next step of each rank
        self.transfers: dict[tuple[int, int], list[_Transfer]] = defaultdict(list)
        self.started: dict[tuple[int, int, bool], int] = defaultdict(int)
        self.mine: list[dict[int, tuple[tuple[int, int], _Transfer]]] = [{} for _ in schedules]
        self.waiting = [False] * len(schedules)
        self.met = [0] * len(schedules)  # how many times each rank has come to a Meet

    def run(self) -> None:
        """Raises ScheduleError if not all ranks reach their end with every transfer met."""
        ready = list(range(len(self.schedules)))
        while ready:
            woken: set[int] = set()
            for rank in ready:
                self._advance(rank, woken)
            ready = sorted(woken)
        stuck = [rank for rank, at in enumerate(self.at) if at < len(self.schedules[rank])]
        self._unmet()
        if stuck:
            raise ScheduleError(self._circle(stuck[0]))
        for pair, transfers in self.transfers.items():
            for transfer in transfers:
                self._finish(pair, transfer)

    def _advance(self, rank: int, woken: set[int]) -> None:
        steps, waits = self.schedules[rank], self.waits[rank]
        while self.at[rank] < len(steps):
            number = self.at[rank]
            if not all(self._over(rank, other) for other in waits[number]):
                return
            for other in waits[number]:
                self._finish(*self.mine[rank][other])
            step = steps[number]
            if isinstance(step, Meet):
                if not self._meet(rank, woken):
                    return
            elif isinstance(step, Send | Recv):
                woken.add(self._begin(rank, number, step))
            else:
                self.compute(rank, step)
            self.at[rank] += 1

    def _meet(self, rank: int, woken: set[int]) -> bool:
        """Whether all ranks have come to this rank's Meet; the last one wakes the others."""
        if self.waiting[rank]:
            if self.met[rank] > min(self.met):
                return False
        else:
            self.met[rank] += 1
            if self.met[rank] > min(self.met):
                self.waiting[rank] = True
                return False
            woken.update(other for other, waits in enumerate(self.waiting) if waits)
        self.waiting[rank] = False
        return True

    def _begin(self, rank: int, number: int, step: Send | Recv) -> int:
        """Start a transfer; the answer is the rank that may now go on."""
        sends = isinstance(step, Send)
        peer = step.to if isinstance(step, Send) else step.source
        pair = (rank, peer) if sends else (peer, rank)
        nth = self.started[*pair, sends]
        self.started[*pair, sends] += 1
        if nth == len(self.transfers[pair]):
            self.transfers[pair].append(_Transfer())
        transfer = self.transfers[pair][nth]
        if sends:
            transfer.send = number
        else:
            transfer.recv = number
        self.mine[rank][number] = (pair, transfer)
        if transfer.send is not None and transfer.recv is not None:
            send, recv = self._steps(pair, transfer)
            if len(send.span) != len(recv.span):
                raise ScheduleError(
                    f"{_where(pair[0], transfer.send, send)} meets "
                    f"{_where(pair[1], transfer.recv, recv)}: the lengths differ"
                )
        return peer

    def _steps(self, pair: tuple[int, int], transfer: _Transfer) -> tuple[Send, Recv]:
        assert transfer.send is not None and transfer.recv is not None
        send = self.schedules[pair[0]][transfer.send]
        recv = self.schedules[pair[1]][transfer.recv]
        assert isinstance(send, Send) and isinstance(recv, Recv)
        return send, recv

    def _over(self, rank: int, number: int) -> bool:
        _, transfer = self.mine[rank][number]
        return transfer.send is not None and transfer.recv is not None

    def _finish(self, pair: tuple[int, int], transfer: _Transfer) -> None:
        if not transfer.moved:
            transfer.moved = True
            send, recv = self._steps(pair, transfer)
            self.move(pair[0], send, pair[1], recv)

    def _unmet(self) -> None:
        """A transfer whose counterpart never comes, not even later in the peer's schedule."""
        for (sender, receiver), transfers in self.transfers.items():
            for nth, transfer in enumerate(transfers):
                kind: type[Send] | type[Recv]
                if transfer.send is not None and transfer.recv is None:
                    rank, number, peer, kind = sender, transfer.send, receiver, Recv
                elif transfer.recv is not None and transfer.send is None:
                    rank, number, peer, kind = receiver, transfer.recv, sender, Send
                else:
                    continue
                if nth >= self._total(peer, kind, rank):
                    what = "receive" if kind is Recv else "send"
                    step = self.schedules[rank][number]
                    raise ScheduleError(
                        f"{_where(rank, number, step)}: rank {peer} has no {what} for it"
                    )

    def _total(self, rank: int, kind: type, peer: int) -> int:
        """How many sends to, or receives from, `peer` the whole schedule of `rank` has."""
        return sum(
            isinstance(step, kind)
            and (step.to if isinstance(step, Send) else step.source) == peer
            for step in self.schedules[rank]
            if isinstance(step, Send | Recv)
        )  # fmt: skip

    def _circle(self, rank: int) -> str:
        """Follow who waits for whom, until a rank comes up again."""
        path: list[int] = []
        lines: list[str] = []
        while rank not in path:
            path.append(rank)
            number = self.at[rank]
            if self.waiting[rank]:
                missing = self.met.index(min(self.met))
                lines.append(f"{_where(rank, number, Meet())} waits for rank {missing}")
                if self.at[missing] == len(self.schedules[missing]):
                    return f"{lines[-1]}, which has come to its end"
                rank = missing
                continue
            other = next(n for n in self.waits[rank][number] if not self._over(rank, n))
            step = self.schedules[rank][number]
            held = self.schedules[rank][other]
            lines.append(f"{_where(rank, number, step)} waits to {held}")
            pair, _ = self.mine[rank][other]
            rank = pair[1] if pair[0] == rank else pair[0]
        return "circular wait: " + "; ".join(lines[path.index(rank) :])


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
                        where = touched[meetings, owner, span.buffer]
                        where.append((span.start, span.stop, written, rank, number))
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
                            f"{_where(rank, number, schedules[rank][number])} and "
                            f"{_where(other, theirs, schedules[other][theirs])} touch the same "
                            "memory without a meeting between them"
                        )
            furthest = reach[written].get(rank, (0, 0))
            reach[written][rank] = max(furthest, (stop, number))


def _where(rank: int, number: int, step: Step) -> str:
    return f"rank {rank}, step {number} ({step})"
