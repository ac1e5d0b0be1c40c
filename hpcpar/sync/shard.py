"""A key range on one server: which pushes have come, and which were applied.

Pushes are applied whole, once each, in an order that every holder of the range finds by itself:
that of the clocks, where a clock is complete with the pushes of all workers (ssp), or that in which
the first holder has got them (asp).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

__all__ = ["Key", "Payload", "Shard", "Store"]


class Key(NamedTuple):
    """Names a push: a worker pushes once at each of its clocks, which count from 1."""

    worker: int
    clock: int


class Payload(NamedTuple):
    """What a worker has computed, for one key range.

    Attributes: words, JSON; arrays.
    """

    words: dict[str, Any]
    arrays: Sequence[Any]


class Store(Protocol):
    """The numbers of a key range: weights and optimizer state."""

    def total(self, pushes: Sequence[Payload]) -> Any:
        """Add up the pushes of a clock, in the order of the workers.

        Returns what the other ranges need of them (of the norm), as JSON.
        """

    def apply(self, clock: int, pushes: Sequence[Payload], parts: Sequence[Any]) -> Any:
        """One update, with what was added up and `parts` of all ranges; what to tell of it."""

    def apply_one(self, push: Payload) -> Any:
        """One update, with one push."""

    def weights(self) -> Sequence[Any]:
        """Arrays, as they are now."""

    def load(self, words: dict[str, Any], arrays: Sequence[Any]) -> None:
        """A part of the state that it begins with."""

    def fetch(self, words: dict[str, Any]) -> Sequence[Any]:
        """A part of the state."""

    def state(self) -> Sequence[Any]:
        """All of it."""

    def set_state(self, clock: int, arrays: Sequence[Any]) -> None:
        """What `state` gave, after so many updates."""


@dataclass
class Shard:
    """Attributes: number, of the range; version, updates applied; done, the last clock of each
    worker that has come; pending, pushes that were not applied, in the order in which they came;
    unconfirmed, those that the backup may not have; parts, by clock, what the other ranges need;
    told, by version, what is told of the last updates; pulls, of workers that wait for a version;
    loads, workers whose part of the first state is here.
    """

    number: int
    store: Store
    version: int = 0
    live: bool = False
    done: dict[int, int] = field(default_factory=dict)
    pending: dict[Key, Payload] = field(default_factory=dict)
    unconfirmed: set[Key] = field(default_factory=set)
    parts: dict[int, Any] = field(default_factory=dict)
    told: dict[int, Any] = field(default_factory=dict)
    pulls: dict[int, dict[str, Any]] = field(default_factory=dict)
    loads: set[int] = field(default_factory=set)

    def add(self, key: Key, push: Payload) -> bool:
        """A push has come; False for one that had come before."""
        if key.clock <= self.done.get(key.worker, 0):
            return False
        self.done[key.worker] = key.clock
        self.pending[key] = push
        if "since" in push.words:  # also where nobody pulls, on the backup
            self.news(push.words["since"])
        return True

    def complete(self, workers: int) -> list[Payload]:
        """The pushes of the next clock, in the order of the workers; none while any is missing."""
        keys = [Key(worker, self.version + 1) for worker in range(workers)]
        if not all(key in self.pending and key not in self.unconfirmed for key in keys):
            return []
        return [self.pending[key] for key in keys]

    def advance(self, told: Any, workers: int) -> None:
        """The next clock was applied."""
        self.version += 1
        for worker in range(workers):
            del self.pending[Key(worker, self.version)]
        # The first holder may be gone before all others have had these.
        self.parts.pop(self.version - 2, None)
        self._tell(told)

    def first(self) -> Payload | None:
        """The push to apply next where each is applied by itself; it is forgotten."""
        key = next(iter(self.pending), None)
        return None if key is None or key in self.unconfirmed else self.pending.pop(key)

    def advance_one(self, told: Any) -> None:
        """It was applied."""
        self.version += 1
        self._tell(told)

    def answerable(self) -> list[dict[str, Any]]:
        """The pulls that can be answered now; they are forgotten."""
        ready = [words for words in self.pulls.values() if words["least"] <= self.version]
        for words in ready:
            del self.pulls[words["worker"]]
        return ready

    def news(self, since: int) -> list[Any]:
        """What is told of the updates after `since`; of those up to it nothing is kept."""
        self.told = {version: told for version, told in self.told.items() if version > since}
        return list(self.told.values())

    def _tell(self, told: Any) -> None:
        if told is not None:
            self.told[self.version] = told
