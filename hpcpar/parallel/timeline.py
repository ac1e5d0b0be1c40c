"""What a rank does with its time: every moment counts to one kind of work."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["KINDS", "Span", "Timeline"]

KINDS = ("compute", "communication", "wait", "data", "other")


@dataclass(frozen=True, slots=True)
class Span:
    """Attributes: kind; what: an action of a schedule, or words; start and end, in seconds."""

    kind: str
    what: object
    start: float
    end: float


class Timeline:
    """A clock that is always on one kind.

    compute is arithmetic; communication is time in which the rank waited for a sum, for gathered
    parameters or for messages to be gone, so it was not hidden behind arithmetic; wait is time in
    which it had no activation or gradient from the stage beside; data is reading samples; other is
    all that remains. So the totals add up to the time on the wall.

    Attributes: totals, seconds by kind; spans, where `record` is set.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._kind: str = "other"
        self._what: object = ""
        self._since = clock()
        self.totals = dict.fromkeys(KINDS, 0.0)
        self.spans: list[Span] = []
        self.record = False

    @contextmanager
    def on(self, kind: str, what: object = "") -> Iterator[None]:
        """Count the time inside to a kind; what was counted to before goes on afterwards."""
        before = self._switch(kind, what)
        try:
            yield
        finally:
            self._switch(*before)

    def now(self) -> float:
        """The time of its clock."""
        return self._clock()

    def read(self) -> dict[str, float]:
        """The totals up to now."""
        self._switch(self._kind, self._what)
        return dict(self.totals)

    def _switch(self, kind: str, what: object) -> tuple[str, object]:
        now, before = self._clock(), (self._kind, self._what)
        self.totals[self._kind] += now - self._since
        if self.record and self._kind != "other" and now > self._since:
            self.spans.append(Span(self._kind, self._what, self._since, now))
        self._kind, self._what, self._since = kind, what, now
        return before
