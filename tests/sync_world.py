"""Workers and servers in one process, on a clock of their own: letters take as long as is drawn.

A letter arrives after those that were posted before it between the same two. Servers may be killed:
what they had posted still arrives, and the others learn of it sooner or later.
"""

import heapq
import json
import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hpcpar.sync.roles import Roles
from hpcpar.sync.server import Server
from hpcpar.sync.shard import Payload
from hpcpar.sync.worker import Worker

__all__ = ["Ledger", "World"]


class Ledger:
    """A store whose weights are the list of what was applied: [worker, clock], in order."""

    def __init__(self) -> None:
        self.applied: list[list[int]] = []
        self.added: list[list[int]] = []
        self.loaded: list[int] = []  # workers whose part of the first state is here

    def total(self, pushes: Sequence[Payload]) -> int:
        self.added = [list(push.arrays[0]) for push in pushes]
        return len(pushes)

    def apply(self, clock: int, pushes: Sequence[Payload], parts: Sequence[Any]) -> int:
        assert self.added == [list(push.arrays[0]) for push in pushes]
        assert all(part == len(pushes) for part in parts)
        self.applied += self.added
        return clock

    def apply_one(self, push: Payload) -> None:
        self.applied.append(list(push.arrays[0]))

    def weights(self) -> list[Any]:
        return [self.applied]

    def load(self, words: Any, arrays: Any) -> None:
        self.loaded.append(words["worker"])

    def fetch(self, words: Any) -> list[Any]:
        return [self.applied]

    def state(self) -> list[Any]:
        return [self.applied, self.loaded]

    def set_state(self, clock: int, arrays: Sequence[Any]) -> None:
        self.applied, self.loaded = map(list, arrays)


@dataclass
class World:
    """`clocks` of each worker; staleness None for asp; `kills`, of servers, one after the other.

    Attributes: seen, for each pull: worker, clock, version and the weights of every range.
    """

    seed: int
    workers: int
    servers: int
    staleness: int | None
    clocks: int
    kills: int = 0
    on_pull: Callable[..., None] = lambda *seen: None
    lost: set[int] = field(default_factory=set)

    def run(self) -> "World":
        """Until nothing happens any more."""
        self.random, self.now, self.count = random.Random(self.seed), 0.0, 0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.arrivals: dict[tuple[int, int], float] = {}
        self.finished: set[int] = set()
        self.busy: dict[int, list[Any]] = {}
        self.roles = roles = Roles(self.workers, self.servers)
        ordered = self.staleness is not None
        self.ranks: dict[int, Any] = {
            rank: Worker(rank, roles, self.staleness, self._poster(rank))
            for rank in range(self.workers)
        }
        for rank in range(self.workers, self.workers + self.servers):
            self.ranks[rank] = Server(
                rank, roles, ordered, lambda number: Ledger(), self._poster(rank)
            )
        self.waiting = {w: self._work(self.ranks[w], w) for w in range(self.workers)}
        for worker in self.waiting:
            self._later(0, partial(self._resume, worker, None))
        victims = list(range(self.workers, self.workers + self.servers))
        self.victims = self.random.sample(victims, self.kills)
        longest = self.random.choice([0.2, self.clocks / 2])  # while they load, or later
        self._later(self.random.random() * longest, self._strike)
        while self.events:
            self.now, _, happen = heapq.heappop(self.events)
            happen()
        return self

    def _work(self, worker: Worker, rank: int) -> Generator[Any, Any, None]:
        """What a worker does; where it waits for letters it yields ranks, to compute, seconds."""
        worker.load(0, [{"worker": rank}] * self.servers, [[]] * self.servers)
        for clock in range(1, self.clocks + 1):
            version, weights = yield from worker.pull(clock)
            self.on_pull(rank, clock, version, [arrays[0] for arrays in weights])
            yield self.random.expovariate(1.0)
            payload = Payload({}, [[rank, clock]])
            yield from worker.push(clock, [payload] * self.servers)
        yield from worker.settle()
        version, weights = yield from worker.pull(self.clocks + 1, staleness=0)
        self.on_pull(rank, self.clocks + 1, version, [arrays[0] for arrays in weights])
        worker.end()

    def _resume(self, rank: int, heard: Any) -> None:
        try:
            wanted = self.waiting[rank].send(heard)
        except StopIteration:
            self.finished.add(rank)
            return
        if isinstance(wanted, float):
            self.busy[rank] = []
            self._later(wanted, lambda: self._wake(rank))

    def _wake(self, rank: int) -> None:
        """It has computed; what came meanwhile it hears when it asks for letters."""
        kept = self.busy.pop(rank)
        self._resume(rank, None)
        for heard in kept:
            self._deliver(rank, heard)

    def _deliver(self, rank: int, heard: Any) -> None:
        if rank in self.lost or rank in self.finished:
            return
        if rank >= self.workers:
            self.ranks[rank].hear(*heard)
        elif rank in self.busy:
            self.busy[rank].append(heard)
        else:
            self._resume(rank, heard)

    def _poster(self, source: int) -> Callable[..., None]:
        def post(to: int, words: Any, *arrays: Any) -> None:
            if source in self.lost:
                return
            letter = source, json.loads(json.dumps(words)), json.loads(json.dumps(arrays))
            at = max(self.now + self.random.expovariate(10.0), self.arrivals.get((source, to), 0))
            self.arrivals[source, to] = at
            self._at(at, lambda: self._deliver(to, letter))

        return post

    def _strike(self) -> None:
        """Kill the first one at once, others when every range has two holders, or the only one."""
        if not self.victims or len(self.finished) == self.workers:
            return
        if not self.lost or self._whole():
            victim = self.victims.pop()
            self.lost.add(victim)
            for rank in self.ranks:
                if rank not in self.lost:
                    when = self.random.expovariate(2.0)
                    self._later(when, partial(self._tell, rank, victim))
        self._later(self.random.expovariate(2.0), self._strike)

    def _whole(self) -> bool:
        return all(
            rank in self.ranks and self._holds(self.ranks[rank], number)
            for number in range(self.servers)
            for rank in self.roles.holders(number, self.lost)
        )

    def _holds(self, server: Server, number: int) -> bool:
        return server.lost == self.lost and number in server.shards and server.shards[number].live

    def _tell(self, rank: int, victim: int) -> None:
        if rank not in self.lost:
            self.ranks[rank].learn([victim])

    def _later(self, seconds: float, happen: Callable[[], None]) -> None:
        self._at(self.now + seconds, happen)

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.events, (when, self.count, happen))
