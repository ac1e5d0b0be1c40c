"""Performs pipeline schedules plainly, on made-up values: what the checker is compared with."""

from collections import defaultdict
from collections.abc import Sequence

from hpcpar.schedule import (
    Action,
    Backward,
    BackwardInput,
    BackwardWeight,
    Forward,
    ReceiveActivation,
    SendActivation,
    SendGradient,
)
from hpcpar.schedule.pipeline_actions import Compute

Value = tuple[str, int, int]  # "output" or "gradient", micro-batch, stage that made it


class Wrong(Exception):
    """What cannot be performed, or makes no step."""


def ensure(right: bool) -> None:
    if not right:
        raise Wrong


class PlainPipeline:
    """One action of one rank at a time; between two stages a queue of what was sent."""

    def __init__(self, schedules: Sequence[Sequence[Action]], micros: int, chunks: int) -> None:
        self.schedules, self.micros, self.ranks = schedules, micros, len(schedules)
        self.stages = self.ranks * chunks
        self.sent: dict[tuple[str, int], list[int]] = defaultdict(list)  # by kind and sending stage
        self.asked: dict[tuple[str, int], list[int]] = defaultdict(list)
        self.arriving: dict[Value, int] = {}  # its place in the queue
        self.values: set[Value] = set()
        self.order: dict[tuple[str, int], list[int]] = defaultdict(list)

    def run(self) -> None:
        at, moved = [0] * self.ranks, True
        while moved:
            moved = False
            for rank, steps in enumerate(self.schedules):
                while at[rank] < len(steps) and self.happens(rank, steps[at[rank]]):
                    at[rank] += 1
                    moved = True
        ensure(at == [len(steps) for steps in self.schedules])
        every = list(range(self.micros))
        for stage in range(self.stages):
            ensure(sorted(self.order["forward", stage]) == every)
            ensure(self.order["backward", stage] == every)
            ensure(self.order["weight", stage] == every)
        for channel in {*self.sent, *self.asked}:
            ensure(self.sent[channel] == self.asked[channel])
            ensure(len(set(self.sent[channel])) == len(self.sent[channel]))

    def happens(self, rank: int, action: Action) -> bool:
        """Whether it happened; if not, it has to wait."""
        micro, stage = action.micro, action.stage
        ensure(0 <= micro < self.micros and 0 <= stage < self.stages)
        ensure(stage % self.ranks == rank)
        if isinstance(action, Forward | Backward | BackwardInput | BackwardWeight):
            return self.compute(rank, action)
        forth = isinstance(action, SendActivation | ReceiveActivation)
        what = "output" if forth else "gradient"
        sends = isinstance(action, SendActivation | SendGradient)
        other = stage + (1 if forth == sends else -1)
        peer = action.to if isinstance(action, SendActivation | SendGradient) else action.source
        ensure(0 <= other < self.stages and other % self.ranks == peer != rank)
        if sends:
            ensure((what, micro, stage) in self.values)
            self.sent[what, stage].append(micro)
        else:
            self.arriving[what, micro, other] = len(self.asked[what, other])
            self.asked[what, other].append(micro)
        return True

    def compute(self, rank: int, action: Compute) -> bool:
        micro, stage = action.micro, action.stage
        output, gradient = ("output", micro, stage), ("gradient", micro, stage)
        if isinstance(action, Forward):
            if stage > 0 and not self.there(rank, ("output", micro, stage - 1)):
                return False
            self.order["forward", stage].append(micro)
            self.values.add(output)
            return True
        if isinstance(action, BackwardWeight):
            ensure(gradient in self.values)
            self.order["weight", stage].append(micro)
            return True
        ensure(output in self.values)
        last = stage == self.stages - 1
        if not last and not self.there(rank, ("gradient", micro, stage + 1)):
            return False
        self.order["backward", stage].append(micro)
        if isinstance(action, Backward):
            self.order["weight", stage].append(micro)
        self.values.add(gradient)
        return True

    def there(self, rank: int, value: Value) -> bool:
        """Whether a value of another stage has come by now."""
        what, micro, stage = value
        if stage % self.ranks == rank:
            ensure(value in self.values)
            return True
        ensure(value in self.arriving)
        place, sent = self.arriving[value], self.sent[what, stage]
        if place >= len(sent):
            return False
        ensure(sent[place] == micro)
        return True
