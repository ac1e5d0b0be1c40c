"""A stand-in for a GPU on the host: streams that work when they are looked at, as late as they may.

Arrays are NumPy's. Work is done in the order of its stream; nothing else is in order unless an
event says so. An event that somebody looks at makes its stream go on, one piece of work at every
third look, and the streams it waits for; a hasty stream works at once, as soon as its waits allow.
So a transport that forgot to wait takes old values (late producers) or loses new ones (hasty
copies). Which streams are hasty is chosen by a seed.
"""

from collections.abc import Callable

import numpy as np

__all__ = ["LateEvent", "LateGpu", "LateStream"]


class LateGpu:
    """Also the stream of the caller: `slow` is work under way there."""

    def __init__(self, haste: int = 0, late: int = 3) -> None:
        """`haste`: bit i makes stream i a hasty one. `late`: looks until something happens."""
        self.streams: list[LateStream] = []
        self.slow = LateStream(self, False)
        self.haste, self.late, self.looks, self.pinned_bytes = haste, late, 0, 0

    def stream(self) -> "LateStream":
        stream = LateStream(self, bool(self.haste >> len(self.streams) & 1))
        self.streams.append(stream)
        return stream

    def caller(self) -> "LateEvent":
        return self.slow.event()

    def pinned(self, size: int) -> np.ndarray:
        self.pinned_bytes += size
        return np.full(size, 255, np.uint8)

    def bytes_of(self, flat: np.ndarray) -> np.ndarray:
        return flat.view(np.uint8)

    def memory(self, span: np.ndarray) -> np.ndarray:
        return span

    def card(self) -> str:
        return "stand-in"

    def look(self, event: "LateEvent") -> bool:
        """One look at an event: something may happen, in its stream or in a hasty one."""
        self.looks += 1
        if self.looks % self.late == 0:
            event.stream.crawl(event.position)
        for stream in self.streams:
            while stream.hasty and stream.crawl():
                pass
        return event.stream.finished >= event.position


class LateEvent:
    def __init__(self, stream: "LateStream", position: int) -> None:
        self.stream, self.position = stream, position

    @property
    def done(self) -> bool:
        return self.stream.gpu.look(self)


class LateStream:
    """Work is a function that says False as long as it is not over."""

    def __init__(self, gpu: LateGpu, hasty: bool) -> None:
        self.gpu, self.hasty = gpu, hasty
        self.queue: list[Callable[[], object]] = []
        self.finished = self.told = 0

    @property
    def handle(self) -> "LateStream":
        return self

    def put(self, work: Callable[[], object]) -> None:
        self.told += 1
        self.queue.append(work)
        while self.hasty and self.crawl():
            pass

    def crawl(self, until: int | None = None) -> bool:
        """Do a piece of work, unless it has to wait for another stream, or is not over yet."""
        if not self.queue or (until is not None and self.finished >= until):
            return False
        if self.queue[0]() is False:
            return False
        self.queue.pop(0)
        self.finished += 1
        return True

    def to_host(self, host: np.ndarray, source: np.ndarray) -> None:
        self.put(lambda: host.__setitem__(..., source))

    def to_device(self, target: np.ndarray, host: np.ndarray) -> None:
        self.put(lambda: target.__setitem__(..., host))

    def compute(self, work: Callable[[], object]) -> None:
        self.put(lambda: work() is None or True)

    def event(self) -> LateEvent:
        return LateEvent(self, self.told)

    def wait(self, event: LateEvent) -> None:
        def come() -> bool:
            event.stream.crawl(event.position)  # only what is waited for goes on
            return event.stream.finished >= event.position

        self.put(come)
