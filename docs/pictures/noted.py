"""What a rank does in a step of training, noted: the real code, among ranks that are not there.

A `Noted` communicator moves nothing. It writes down what starts and what is waited for, between
what the layers compute; the numbers are nonsense, their order is what happens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from hpcpar.device import Array, Device
from hpcpar.schedule.steps import Send, Step

__all__ = ["Compute", "Entry", "Noted", "Start", "Wait", "listen"]


@dataclass(frozen=True)
class Compute:
    """Attributes: kind, of work; what, a word for it; time, in whatever unit."""

    kind: str
    what: str
    time: float = 1.0


@dataclass(frozen=True)
class Start:
    """Attributes: number, of the transfer; kind; sent, elements from this rank; size, of all."""

    number: int
    kind: str
    sent: int
    size: int


@dataclass(frozen=True)
class Wait:
    """Attributes: number, of the transfer."""

    number: int


Entry = Compute | Start | Wait


@dataclass
class Noted:
    """A rank's communicator. Attributes: log, what has happened; steps, of each transfer."""

    rank: int
    size: int
    log: list[Entry] = field(default_factory=list)
    steps: list[Sequence[Step]] = field(default_factory=list)
    device: Device = field(default_factory=lambda: Device("cpu"))
    node_map: None = None
    local_size: int = 1
    nodes: int = 2  # so that what is exchanged goes by messages, which can be seen

    def irun(
        self, steps: Sequence[Step], buffers: Mapping[str, Array], op: str = "sum", name: str = ""
    ) -> SimpleNamespace:
        sent = sum(len(step.span) for step in steps if isinstance(step, Send))
        return self._start(name, sent, max(array.size for array in buffers.values()), steps)

    def run(
        self, steps: Sequence[Step], buffers: Mapping[str, Array], op: str = "sum", name: str = ""
    ) -> None:
        self.irun(steps, buffers, op, name).wait()

    def isend(self, x: Array, dest: int, tag: int = 0) -> SimpleNamespace:
        return self._start(f"to {dest}", x.size, x.size)

    def irecv(self, out: Array, source: int, tag: int = 0) -> SimpleNamespace:
        out.fill(0)
        return SimpleNamespace(wait=lambda: out)

    def allreduce(self, x: Array, op: str = "sum", out: Array | None = None) -> Array:
        return x

    def allgather(self, x: Array) -> Array:
        return np.concatenate([x] * self.size)

    def progress(self) -> None:
        pass

    def _start(
        self, kind: str, sent: int, size: int, steps: Sequence[Step] = ()
    ) -> SimpleNamespace:
        number = len(self.steps)
        self.steps.append(steps)
        self.log.append(Start(number, kind, sent, size))
        return SimpleNamespace(wait=lambda: self.log.append(Wait(number)))


def listen(log: list[Entry], owner: Any, method: str, note: Callable[..., Compute]) -> None:
    """Note each call of an object's method, by what `note` makes of its arguments."""
    real = getattr(owner, method)

    def noted(*arguments: Any, **named: Any) -> Any:
        log.append(note(*arguments, **named))
        return real(*arguments, **named)

    setattr(owner, method, noted)
