"""The workers' side of the protocol. No MPI in here: what waits is a generator; letters go to it.

A worker at clock c (they count from 1) pulls weights that have the updates of all clocks up to
c - 1 - staleness, in all key ranges the same ones, computes, and pushes. It has one push under way
at most, and posts it again where a server was lost before it has acknowledged it.
"""

from collections.abc import Callable, Collection, Generator, Sequence
from typing import Any

from hpcpar.errors import LostRankError, UserError
from hpcpar.sync.roles import Roles
from hpcpar.sync.shard import Payload

__all__ = ["StalenessError", "Waiting", "Worker"]

Words = dict[str, Any]
Heard = tuple[int, Words, Sequence[Any]] | None  # a letter; None where a rank was found lost
Waiting = Generator[list[int], Heard, Any]  # yields the ranks that it waits for


class StalenessError(RuntimeError):
    """A server has answered a pull with weights that are older than they may be."""


class Worker:
    """One of them.

    Args:
        staleness: None where there is no order of clocks (asp).
        post: sends a letter: to, words, arrays.

    Attributes: lost, the ranks that are known to be gone; pulls, how many were answered and
    checked; news, what servers have told of updates, where it was asked for.
    """

    def __init__(
        self, rank: int, roles: Roles, staleness: int | None, post: Callable[..., None]
    ) -> None:
        self._rank, self._roles, self._staleness, self._send = rank, roles, staleness, post
        self.lost: set[int] = set()
        self.pulls = 0
        self.news: list[Any] = []
        self._unacknowledged: dict[int, tuple[int, Payload]] = {}  # by range: its clock
        self._asked: dict[int, Words] = {}  # by range
        self._asks = 0
        self._versions: dict[int, int] = {}
        self._arrays: dict[int, Sequence[Any]] = {}

    @property
    def servers(self) -> range:
        """Their ranks."""
        return range(self._roles.workers, self._roles.workers + self._roles.servers)

    @property
    def told(self) -> int:
        """Updates that the first range had when it answered: `news` goes up to there."""
        return self._versions[0]

    def load(self, clock: int, words: Sequence[Words], arrays: Sequence[Sequence[Any]]) -> None:
        """This worker's part of the first state, by range: to all that hold it."""
        for number in range(self._roles.servers):
            for holder in self._roles.holders(number, self.lost):
                said = {"kind": "load", "range": number, "clock": clock} | words[number]
                self._post(holder, said, arrays[number])

    def push(self, clock: int, payloads: Sequence[Payload]) -> Waiting:
        """Post what was computed at a clock, by range, when the push before is acknowledged."""
        yield from self.settle()
        for number, payload in enumerate(payloads):
            self._unacknowledged[number] = clock, payload
            self._post_push(number)

    def settle(self) -> Waiting:
        """Until all pushes are acknowledged."""
        while self._unacknowledged:
            self._hear((yield self._servers(self._unacknowledged)))

    def pull(
        self, clock: int, since: int | None = None, staleness: int | None = None
    ) -> Generator[list[int], Heard, tuple[int, list[Sequence[Any]]]]:
        """Weights to compute a clock with: their version, and the arrays of every range.

        Args:
            since: ask for what is told of the updates after this one.
            staleness: another one, this time.
        """
        ordered = self._staleness is not None
        allowed = self._staleness if staleness is None else staleness
        least = max(0, clock - 1 - (allowed or 0)) if ordered else 0
        missing = list(range(self._roles.servers))
        while missing:
            for number in missing:
                words = {"kind": "pull", "range": number, "least": least}
                self._ask(
                    number, words | ({"since": since} if since is not None and not number else {})
                )
            while self._asked:
                self._hear((yield self._servers(self._asked)))
            if since is not None:
                since = self._versions[0]  # what comes again is told from there
            if ordered:  # no half of an update is seen: all ranges stand after the same one
                least = max(self._versions.values())
            missing = [n for n, version in self._versions.items() if ordered and version < least]
        version = max(self._versions.values())
        if ordered and version < clock - 1 - (allowed or 0):
            raise StalenessError(
                f"worker {self._rank} at clock {clock} was given version {version}"
            )
        self.pulls += 1
        return version, [self._arrays[number] for number in range(self._roles.servers)]

    def fetch(self, words: Sequence[Words]) -> Generator[list[int], Heard, list[Sequence[Any]]]:
        """Parts of the state, by range."""
        for number, said in enumerate(words):
            self._ask(number, said | {"kind": "fetch", "range": number})
        while self._asked:
            self._hear((yield self._servers(self._asked)))
        return [self._arrays[number] for number in range(self._roles.servers)]

    def end(self, stopped: bool = False) -> None:
        """No server is needed any more; `stopped`, until the run goes on."""
        for server in range(self._roles.servers):
            self._post(self._roles.rank(server), {"kind": "end", "stopped": stopped})

    def learn(self, lost: Collection[int]) -> None:
        """Ranks are gone: what they were asked goes to those that took over."""
        if not (news := set(lost) - self.lost):
            return
        before = {n: self._first(n) for n in range(self._roles.servers)}
        self.lost |= news
        for number in range(self._roles.servers):
            if self._first(number) == before[number]:
                continue
            if number in self._unacknowledged:
                self._post_push(number)
            if number in self._asked:
                self._post(self._first(number), self._asked[number])

    def _hear(self, heard: Heard) -> None:
        if heard is None:
            return
        source, words, arrays = heard
        self.learn(words.get("lost", ()))
        kind = words["kind"]
        if kind == "fail":
            raise (LostRankError if words.get("gone") else UserError)(words["why"])
        number = words["range"]
        if kind == "ack":
            if self._unacknowledged.get(number, (0,))[0] == words["clock"]:
                del self._unacknowledged[number]
        elif number in self._asked and source == self._first(number):
            if kind == "state":
                if words["asked"] != self._asked[number]["asked"]:
                    return  # the answer to a question that was answered by another
                self._versions[number] = words["version"]
                self.news += words["news"]
            self._arrays[number] = arrays
            del self._asked[number]

    def _ask(self, number: int, words: Words) -> None:
        self._asks += 1
        self._asked[number] = words | {"asked": self._asks}
        self._post(self._first(number), self._asked[number])

    def _post_push(self, number: int) -> None:
        clock, payload = self._unacknowledged[number]
        words = payload.words | {"kind": "push", "range": number, "clock": clock}
        self._post(self._first(number), words, payload.arrays)

    def _first(self, number: int) -> int:
        holders = self._roles.holders(number, self.lost)
        if not holders:
            raise LostRankError("all servers were lost: start again from the newest checkpoint")
        return holders[0]

    def _servers(self, numbers: Collection[int]) -> list[int]:
        return sorted({self._first(number) for number in numbers})

    def _post(self, to: int, words: Words, arrays: Sequence[Any] = ()) -> None:
        self._send(to, words | {"lost": sorted(self.lost)}, *arrays)
