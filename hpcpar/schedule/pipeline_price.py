"""What pipeline schedules cost: seconds, and how much of them the ranks only wait.

A rank does one action after the other. A message is under way from when both sides have come to it,
for `transfer` seconds, while both go on; messages do not slow one another. A compute action begins
when the rank has come to it and its message is there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hpcpar.schedule.pipeline_actions import (
    Action,
    Backward,
    BackwardInput,
    BackwardWeight,
    Compute,
    Forward,
    ReceiveActivation,
    ReceiveGradient,
    SendActivation,
    SendGradient,
    Transfer,
)

__all__ = ["PipelineEvent", "PipelinePrice", "price_pipeline"]

PipelineEvent = tuple[int, Action, float, float]  # rank, action, start and end in seconds
Message = tuple[bool, int, int]  # is it a gradient, micro-batch, stage that receives


@dataclass(frozen=True)
class PipelinePrice:
    """What `price_pipeline` finds."""

    seconds: float  # until the last rank is done
    busy: tuple[float, ...]  # seconds that each rank computes
    timeline: list[PipelineEvent]  # of every action, by rank and start

    @property
    def bubble(self) -> float:
        """The part of all ranks' time in which they do not compute, 0 to 1."""
        total = self.seconds * len(self.busy)
        return 1 - sum(self.busy) / total if total else 0.0


def price_pipeline(
    schedules: Sequence[Sequence[Action]],
    forward: float | Sequence[float],
    backward: float | Sequence[float],
    weight: float | Sequence[float] | None = None,
    transfer: float = 0.0,
) -> PipelinePrice:
    """The cost of the schedules of all ranks, which must pass `check_pipeline`.

    Args:
        schedules: the actions of every rank.
        forward: seconds of a micro-batch in a virtual stage; a number, or one for each stage.
        backward: likewise; of input and weight gradients together.
        weight: likewise; the part of `backward` that is the weight gradient. None: half of it.
        transfer: seconds of a message: latency + bytes / bandwidth.

    Raises ValueError for times that are negative or not one for each stage, a weight gradient that
    takes longer than the backward that it is part of, and ranks that wait for each other for ever.
    """
    stages = 1 + max((action.stage for steps in schedules for action in steps), default=-1)
    costs = [_each("forward", forward, stages), _each("backward", backward, stages)]
    halves = [seconds / 2 for seconds in costs[1]]
    costs.append(halves if weight is None else _each("weight", weight, stages))
    for stage, (whole, part) in enumerate(zip(*costs[1:], strict=True)):
        if part > whole:
            raise ValueError(
                f"the weight gradient of stage {stage} takes {part} seconds, "
                f"more than the backward, {whole}, that it is part of"
            )
    _each("transfer", transfer, 1)
    return _Clocks(schedules, costs, transfer).run()


def _each(what: str, seconds: float | Sequence[float], stages: int) -> list[float]:
    """One number for each stage."""
    each = [*map(float, seconds if isinstance(seconds, Iterable) else [seconds] * stages)]
    if len(each) != stages:
        raise ValueError(f"{what} has {len(each)} times for {stages} virtual stages")
    if not all(time >= 0 for time in each):
        raise ValueError(f"{what} has to take 0 seconds or more, not {seconds}")
    return each


class _Clocks:
    """Every rank has a clock of its own and runs ahead until it waits for a message."""

    def __init__(
        self, schedules: Sequence[Sequence[Action]], costs: list[list[float]], transfer: float
    ) -> None:
        ranks = len(schedules)
        self.schedules, self.costs, self.transfer = schedules, costs, transfer
        self.at, self.clock, self.busy = [0] * ranks, [0.0] * ranks, [0.0] * ranks
        self.last = len(costs[0]) - 1
        # When the two sides came to a message.
        self.sent: dict[Message, tuple[int, Transfer, float]] = {}
        self.received: dict[Message, tuple[int, Transfer, float]] = {}
        self.waiting: dict[Message, int] = {}  # rank
        self.timeline: list[PipelineEvent] = []

    def run(self) -> PipelinePrice:
        ready = list(range(len(self.schedules)))
        while ready:
            ready += self._advance(ready.pop())
        for rank, steps in enumerate(self.schedules):
            if self.at[rank] < len(steps):
                raise ValueError(
                    f"the schedules have no end: rank {rank} waits for ever "
                    f"before its {steps[self.at[rank]]}"
                )
        self.timeline.sort(key=lambda event: (event[0], event[2]))
        seconds = max((end for *_, end in self.timeline), default=0.0)
        return PipelinePrice(seconds, tuple(self.busy), self.timeline)

    def _advance(self, rank: int) -> list[int]:
        """Go on until a message is not there; the answer is the ranks that waited for this one."""
        steps, woken = self.schedules[rank], []
        while self.at[rank] < len(steps):
            action = steps[self.at[rank]]
            micro, stage, now = action.micro, action.stage, self.clock[rank]
            if isinstance(action, ReceiveActivation | ReceiveGradient):
                message = (isinstance(action, ReceiveGradient), micro, stage)
                self.received[message] = (rank, action, now)
            elif isinstance(action, SendActivation | SendGradient):
                back = isinstance(action, SendGradient)
                message = (back, micro, stage - 1 if back else stage + 1)
                self.sent[message] = (rank, action, now)
                if message in self.waiting:
                    woken.append(self.waiting.pop(message))
            elif not self._compute(rank, action):
                break
            self.at[rank] += 1
        return woken

    def _compute(self, rank: int, action: Compute) -> bool:
        """Whether the action has what it needs; then it happens."""
        micro, stage = action.micro, action.stage
        back = isinstance(action, Backward | BackwardInput)
        alone = len(self.schedules) == 1 or isinstance(action, BackwardWeight)
        if not alone and stage != (self.last if back else 0):
            message = (back, micro, stage)
            if message not in self.sent or message not in self.received:
                self.waiting[message] = rank
                return False
            sides = (self.sent.pop(message), self.received.pop(message))
            start = max(time for *_, time in sides)
            end = start + self.transfer
            self.timeline += [(side, transfer, start, end) for side, transfer, _ in sides]
            self.clock[rank] = max(self.clock[rank], end)
        forward, backward, weight = (cost[stage] for cost in self.costs)
        seconds = {Forward: forward, Backward: backward, BackwardInput: backward - weight,
                   BackwardWeight: weight}[type(action)]  # fmt: skip
        start = self.clock[rank]
        self.clock[rank] = start + seconds
        self.busy[rank] += seconds
        self.timeline.append((rank, action, start, self.clock[rank]))
        return True
