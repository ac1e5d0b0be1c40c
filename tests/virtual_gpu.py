"""GPUs and a network in virtual time: what a transfer takes when copies and messages take theirs.

Ranks live in one process. Every stream, and every direction of the link between two ranks, does one
thing at a time; a message starts when its send and its receive have been posted. Looking at things
takes no time; when nobody can go on, the clock goes to the next thing that ends.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from mpi4py import MPI

__all__ = ["Clock", "Speeds", "VirtualGpu", "VirtualLink", "a_call", "run_ranks"]


@dataclass(frozen=True)
class Speeds:
    """Bytes a second, and seconds that every copy and message costs beside."""

    down: float
    network: float
    up: float
    start: float = 5e-6


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.ends: set[float] = set()

    def busy(self, since: float, seconds: float) -> float:
        """The end of something that takes so long; the clock will stop there."""
        end = max(since, self.now) + seconds
        self.ends.add(end)
        return end

    def advance(self) -> None:
        later = [end for end in self.ends if end > self.now]
        assert later, "nothing is under way, and still somebody waits"
        self.now = min(later)
        self.ends = set(later)


@dataclass
class Point:
    clock: Clock
    time: float

    @property
    def done(self) -> bool:
        return self.clock.now >= self.time


class VirtualStream:
    def __init__(self, clock: Clock, speeds: Speeds) -> None:
        self.clock, self.speeds, self.free = clock, speeds, 0.0

    @property
    def handle(self) -> "VirtualStream":
        return self

    def to_host(self, host: np.ndarray, source: np.ndarray) -> None:
        host[...] = source
        self._take(self.speeds.start + len(host) / self.speeds.down)

    def to_device(self, target: np.ndarray, host: np.ndarray) -> None:
        target[...] = host
        self._take(self.speeds.start + len(host) / self.speeds.up)

    def compute(self, work: Callable[[], object]) -> None:
        work()
        self._take(self.speeds.start)

    def event(self) -> Point:
        return Point(self.clock, self.free)

    def wait(self, event: Point) -> None:
        self.free = max(self.free, event.time)

    def _take(self, seconds: float) -> None:
        self.free = self.clock.busy(self.free, seconds)


class VirtualGpu:
    def __init__(self, clock: Clock, speeds: Speeds) -> None:
        self.clock, self.speeds = clock, speeds

    def stream(self) -> VirtualStream:
        return VirtualStream(self.clock, self.speeds)

    def caller(self) -> Point:
        return Point(self.clock, 0.0)

    def pinned(self, size: int) -> np.ndarray:
        return np.empty(size, np.uint8)

    def bytes_of(self, flat: np.ndarray) -> np.ndarray:
        return flat.view(np.uint8)

    def memory(self, span: np.ndarray) -> np.ndarray:
        return span

    def card(self) -> str:
        return "virtual"


class VirtualLink:
    """The network, and the channel of each rank (`channel(rank)` is its MPI.Comm)."""

    def __init__(self, clock: Clock, speeds: Speeds) -> None:
        self.clock, self.speeds = clock, speeds
        self.free: dict[Any, float] = defaultdict(float)
        self.sends: dict[Any, deque[VirtualRequest]] = defaultdict(deque)
        self.receives: dict[Any, deque[VirtualRequest]] = defaultdict(deque)

    def channel(self, rank: int) -> "Channel":
        return Channel(self, rank)

    def match(self, key: Any) -> None:
        sends, receives = self.sends[key], self.receives[key]
        while sends and receives:
            send, receive = sends.popleft(), receives.popleft()
            receive.content[: len(send.content)] = send.content
            seconds = self.speeds.start + len(send.content) / self.speeds.network
            end = self.free[key[:2]] = self.clock.busy(self.free[key[:2]], seconds)
            send.end = receive.end = end
            receive.size = len(send.content)


class VirtualRequest:
    def __init__(self, clock: Clock, content: np.ndarray) -> None:
        self.clock, self.content = clock, content
        self.end, self.size = float("inf"), 0

    def Test(self, status: MPI.Status | None = None) -> bool:
        if self.clock.now < self.end:
            return False
        if status is not None:
            status.Set_elements(MPI.BYTE, self.size)
        return True


class Channel:
    def __init__(self, link: VirtualLink, rank: int) -> None:
        self.link, self.rank = link, rank

    def Isend(self, content: tuple[np.ndarray, Any], to: int, tag: int) -> VirtualRequest:
        return self._enter(self.link.sends, (self.rank, to, tag), content[0])

    def Irecv(self, content: tuple[np.ndarray, Any], source: int, tag: int) -> VirtualRequest:
        return self._enter(self.link.receives, (source, self.rank, tag), content[0])

    def _enter(self, queues: Any, key: Any, content: np.ndarray) -> VirtualRequest:
        request = VirtualRequest(self.link.clock, content)
        queues[key].append(request)
        self.link.match(key)
        return request


def a_call(number: int = 1) -> SimpleNamespace:
    """What the runner knows of a call, outside of a communicator."""
    return SimpleNamespace(
        number=number, tag=number, ready=None, finished=0, messages=0, bytes=0, pending=tuple
    )


def run_ranks(clock: Clock, works: Sequence[Generator[None, None, Any]]) -> float:
    """Run the ranks' operations to their end; the virtual seconds they took."""
    under_way = list(works)
    while under_way:
        for _ in range(4):  # what one rank does may let another go on at the same time
            for work in tuple(under_way):
                try:
                    next(work)
                except StopIteration:
                    under_way.remove(work)
        if under_way:
            clock.advance()
    return clock.now
