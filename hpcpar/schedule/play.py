"""Plays the schedules of all ranks in one process, each rank as far as it can get.

Sends are taken to be synchronous: one is over when its receive has started, and not before. So what
is played to its end does not depend on how much a network buffers. The steps of a rank happen in
program order and sends meet receives in order, therefore the outcome does not depend on timing
either: if the ranks get stuck in one interleaving, they get stuck in all.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

from hpcpar.schedule.steps import Combine, Copy, Meet, Recv, Send, Step, dependencies

__all__ = ["Play", "ScheduleError", "Schedules", "where"]

Schedules = Sequence[Sequence[Step]]


class ScheduleError(ValueError):
    """A fault in a schedule: which ranks, which steps, what is wrong."""


class _Transfer:
    """A send and the receive it meets; one of them may be missing so far."""

    __slots__ = ("moved", "recv", "send")

    def __init__(self) -> None:
        self.send: int | None = None  # step numbers, in the sender's and the receiver's schedule
        self.recv: int | None = None
        self.moved = False


class Play:
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
                    f"{where(pair[0], transfer.send, send)} meets "
                    f"{where(pair[1], transfer.recv, recv)}: the lengths differ"
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
                        f"{where(rank, number, step)}: rank {peer} has no {what} for it"
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
                lines.append(f"{where(rank, number, Meet())} waits for rank {missing}")
                if self.at[missing] == len(self.schedules[missing]):
                    return f"{lines[-1]}, which has come to its end"
                rank = missing
                continue
            other = next(n for n in self.waits[rank][number] if not self._over(rank, n))
            step = self.schedules[rank][number]
            held = self.schedules[rank][other]
            lines.append(f"{where(rank, number, step)} waits to {held}")
            pair, _ = self.mine[rank][other]
            rank = pair[1] if pair[0] == rank else pair[0]
        return "circular wait: " + "; ".join(lines[path.index(rank) :])


def where(rank: int, number: int, step: Step) -> str:
    """A step, for a message."""
    return f"rank {rank}, step {number} ({step})"
