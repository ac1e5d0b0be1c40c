"""The servers' side of the protocol: what a server does about each letter. No MPI in here.

A push goes to the first holder of its range. That copies it to the second, and only what the second
has confirmed is acknowledged, and applied: so where a server is lost (they stop for good, and all
others learn of it), everything acknowledged is on the other holder, which takes over, and gives the
next server a copy of all. Workers post again what was not acknowledged; a push that comes twice
(its worker and clock say so) is applied once.

The update of a clock needs the norm of the whole gradient. So first holders tell all servers what
their range adds to it, and a server applies a clock when it has heard of all ranges. They do so
after they have applied the clock before: so no two ranges are more than one clock apart.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from hpcpar.sync.roles import Roles
from hpcpar.sync.shard import Key, Payload, Shard, Store

__all__ = ["Server"]

Words = dict[str, Any]


class Server:
    """One of them.

    Args:
        ordered: whether clocks are applied in order, each complete (bsp, ssp), or each push as it
            comes (asp).
        make_store: the numbers of a key range.
        post: sends a letter: to, words, arrays.

    Attributes: lost, the ranks that are known to be gone; ended, the workers that need no server
    any more; stopped, whether they have stopped before their last step; shards, by range.
    """

    def __init__(
        self,
        rank: int,
        roles: Roles,
        ordered: bool,
        make_store: Callable[[int], Store],
        post: Callable[..., None],
    ) -> None:
        self._rank, self._roles, self._ordered = rank, roles, ordered
        self._make_store, self._send = make_store, post
        self.lost: set[int] = set()
        self.ended: set[int] = set()
        self.stopped = False
        self.shards = {n: Shard(n, make_store(n)) for n in roles.ranges(rank, ())}
        self._parts: dict[int, dict[int, Any]] = {}  # by clock and range

    def hear(self, source: int, words: Words, arrays: Sequence[Any] = ()) -> None:
        """A letter has come."""
        self.learn(words.get("lost", ()))
        if source in self.lost:
            return  # whoever was to be told by it is told by those that are left
        {
            "load": self._load, "push": self._push, "copy": self._copy, "got": self._got,
            "pull": self._pull, "fetch": self._fetch, "parts": self._hear_parts,
            "transfer": self._take, "end": self._end,
        }[words["kind"]](source, words, arrays)  # fmt: skip

    def learn(self, lost: Collection[int]) -> None:
        """Ranks are gone: take over what was theirs."""
        if not (news := set(lost) - self.lost):
            return
        before = {n: self._holders(n) for n in self.shards}
        self.lost |= news
        for number, shard in self.shards.items():
            holders = self._holders(number)
            if holders == before[number] or holders[0] != self._rank:
                continue
            if before[number][0] != self._rank:
                for clock, parts in shard.parts.items():
                    self._tell_parts(number, clock, parts)
            if len(holders) == 2:
                self._transfer(shard)
            else:
                self._confirm(shard, list(shard.unconfirmed))
            self._go_on()

    @property
    def missing(self) -> set[int]:
        """Workers whose pushes others wait for."""
        return {
            worker
            for shard in self.shards.values()
            if shard.live and shard.pulls
            for worker in range(self._roles.workers)
            if Key(worker, shard.version + 1) not in shard.pending
        }

    def _transfer(self, shard: Shard) -> None:
        """The backup is a new one: it is given all, as soon as that is there."""
        if shard.live:
            shard.unconfirmed = set(shard.pending)
            self._post(self._holders(shard.number)[1], *_everything(shard))

    def _holders(self, number: int) -> list[int]:
        return self._roles.holders(number, self.lost)

    def _backup(self, number: int) -> int | None:
        """Who has the range as well; None where this server is not the first."""
        holders = self._holders(number)
        return holders[1] if holders[0] == self._rank and len(holders) == 2 else None

    # From workers.

    def _load(self, source: int, words: Words, arrays: Sequence[Any]) -> None:
        shard = self.shards[words["range"]]
        shard.store.load(words, arrays)
        shard.loads.add(source)
        if len(shard.loads) == self._roles.workers:
            shard.live, shard.version = True, words["clock"]
            if self._backup(shard.number) not in {None, *self._roles.holders(shard.number, ())}:
                self._transfer(shard)  # workers have loaded what they knew of
            self._answer(shard)
            self._go_on()

    def _push(self, source: int, words: Words, arrays: Sequence[Any]) -> None:
        shard = self._shard(source, words)
        if shard is None:
            return
        key = Key(source, words["clock"])
        if not shard.add(key, Payload(words, arrays)):
            if key not in shard.unconfirmed:
                self._acknowledge(shard, key)
            return
        backup = self._backup(shard.number)
        if backup is None:
            self._acknowledge(shard, key)
        else:
            shard.unconfirmed.add(key)
            self._post(backup, words | {"kind": "copy", "worker": source}, arrays)
        self._go_on()

    def _pull(self, source: int, words: Words, arrays: Sequence[Any]) -> None:
        shard = self._shard(source, words)
        if shard is not None:
            shard.pulls[source] = words | {"worker": source}
            self._answer(shard)

    def _fetch(self, source: int, words: Words, arrays: Sequence[Any]) -> None:
        shard = self._shard(source, words)
        if shard is not None:
            answer = {"kind": "fetched", "range": shard.number}
            self._post(source, answer, shard.store.fetch(words))

    def _end(self, source: int, words: Words, arrays: Sequence[Any]) -> None:
        self.ended.add(source)
        self.stopped |= words["stopped"]

    def _shard(self, source: int, words: Words) -> Shard | None:
        shard = self.shards.get(words["range"])
        if shard is None:
            why = f"key range {words['range']} was lost with its backup"
            self._post(source, {"kind": "fail", "why": why, "gone": True})
        return shard

    # From other servers.

    def _copy(self, source: int, words: Words, arrays: Sequence[Any]) -> None:
        shard, key = self.shards[words["range"]], Key(words["worker"], words["clock"])
        shard.add(key, Payload(words, arrays))
        self._post(source, _got(shard, key))
        self._go_on()

    def _got(self, source: int, words: Words, arrays: Sequence[Any]) -> None:
        shard = self.shards[words["range"]]
        if source == self._backup(shard.number):
            self._confirm(shard, [Key(words["worker"], words["clock"])])
            self._go_on()

    def _hear_parts(self, source: int, words: Words, arrays: Sequence[Any]) -> None:
        self._parts.setdefault(words["clock"], {})[words["range"]] = words["parts"]
        self._go_on()

    def _take(self, source: int, words: Words, arrays: Sequence[Any]) -> None:
        """This server backs up a range from now on."""
        shard = Shard(words["range"], self._make_store(words["range"]), words["version"], True)
        shard.done = {int(worker): clock for worker, clock in words["done"].items()}
        shard.told = {int(version): told for version, told in words["told"].items()}
        own, rest = arrays[: words["state"]], list(arrays[words["state"] :])
        shard.store.set_state(shard.version, own)
        for worker, clock, said, count in words["pending"]:
            shard.pending[Key(worker, clock)] = Payload(said, rest[:count])
            del rest[:count]
        self.shards[shard.number] = shard
        for key in shard.pending:
            self._post(source, _got(shard, key))
        self._go_on()

    # What follows.

    def _confirm(self, shard: Shard, keys: Iterable[Key]) -> None:
        for key in keys:
            if key in shard.unconfirmed:
                shard.unconfirmed.remove(key)
                self._acknowledge(shard, key)

    def _acknowledge(self, shard: Shard, key: Key) -> None:
        self._post(key.worker, {"kind": "ack", "range": shard.number, "clock": key.clock})

    def _go_on(self) -> None:
        """Apply what can be applied; a range may wait for what another one of this server adds."""
        apply = self._apply if self._ordered else self._apply_one
        while applied := [shard for shard in self.shards.values() if shard.live and apply(shard)]:
            for shard in applied:
                self._answer(shard)

    def _apply(self, shard: Shard) -> bool:
        clock, workers = shard.version + 1, self._roles.workers
        pushes = shard.complete(workers)
        if not pushes:
            return False
        if clock not in shard.parts:
            shard.parts[clock] = parts = shard.store.total(pushes)
            self._parts.setdefault(clock, {})[shard.number] = parts
            if self._holders(shard.number)[0] == self._rank:
                self._tell_parts(shard.number, clock, parts)
        known = self._parts.get(clock, {})
        if len(known) < self._roles.servers:
            return False
        every = [known[number] for number in range(self._roles.servers)]
        shard.advance(shard.store.apply(clock, pushes, every), workers)
        slowest = min(shard.version for shard in self.shards.values())
        for old in [clock for clock in self._parts if clock < slowest - 1]:
            del self._parts[old]
        return True

    def _apply_one(self, shard: Shard) -> bool:
        push = shard.first()
        if push is not None:
            shard.advance_one(shard.store.apply_one(push))
        return push is not None

    def _answer(self, shard: Shard) -> None:
        for pull in shard.answerable() if shard.live else []:
            news = shard.news(pull["since"]) if "since" in pull else []
            words = {
                "kind": "state", "range": shard.number, "version": shard.version,
                "asked": pull["asked"], "news": news,
            }  # fmt: skip
            self._post(pull["worker"], words, shard.store.weights())

    def _tell_parts(self, number: int, clock: int, parts: Any) -> None:
        words = {"kind": "parts", "range": number, "clock": clock, "parts": parts}
        for server in range(self._roles.servers):
            if (rank := self._roles.rank(server)) != self._rank:
                self._post(rank, words)

    def _post(self, to: int, words: Words, arrays: Sequence[Any] = ()) -> None:
        if to not in self.lost:
            self._send(to, words | {"lost": sorted(self.lost)}, *arrays)


def _got(shard: Shard, key: Key) -> Words:
    return {"kind": "got", "range": shard.number, "worker": key.worker, "clock": key.clock}


def _everything(shard: Shard) -> tuple[Words, list[Any]]:
    """All that a new backup needs."""
    state = list(shard.store.state())
    pending = [[*key, push.words, len(push.arrays)] for key, push in shard.pending.items()]
    words = {
        "kind": "transfer", "range": shard.number, "version": shard.version, "done": shard.done,
        "told": shard.told, "state": len(state), "pending": pending,
    }  # fmt: skip
    return words, [*state, *(array for push in shard.pending.values() for array in push.arrays)]
