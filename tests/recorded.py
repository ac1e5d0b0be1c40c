"""Ranks with recorders of their own, for tests of what is told of them."""

from dataclasses import replace
from typing import Any

from hpcpar.comm.flight.layout import COLLECTIVE, MESSAGE
from hpcpar.comm.flight.recorder import Recorder
from hpcpar.comm.flight.rows import Row, from_json, make_row, to_json
from hpcpar.comm.flight.verdict import verdict

__all__ = ["SECOND", "WORLD", "Rank", "Ranks", "four"]

WORLD = 1
SECOND = 10**9


class Rank:
    """A rank that records calls, and where it stands in the end."""

    def __init__(self, rank: int, size: int) -> None:
        self.recorder = Recorder(None, rank, size, {"host": f"node{rank // 4}"})
        self.slots = {WORLD: self.recorder.open_group(WORLD, range(size), rank, 60, 1)}
        self.state, self.where, self.inside = "running", "", ""

    def join(self, group: int, members: list[int]) -> None:
        number = members.index(self.recorder.rank)
        self.slots[group] = self.recorder.open_group(group, members, number, 60, 1)

    def enter(
        self,
        name: str,
        number: int,
        line: int = 141,
        peer: int = -1,
        group: int = WORLD,
        size: int = 0,
    ) -> int:
        kind = MESSAGE if name in ("send", "recv", "sendrecv") else COLLECTIVE
        slot, operation = self.slots[group] + kind, self.recorder.operation(name)
        return self.recorder.begin(slot, operation, number, size, peer, self._site(line))

    def do(self, *call: Any, **options: Any) -> None:
        self.recorder.end(self.enter(*call, **options))

    def start(self, name: str, number: int) -> None:
        slot, operation = self.slots[WORLD] + COLLECTIVE, self.recorder.operation(name)
        self.recorder.start(slot, operation, number, 0, -1, self._site(140))

    def compute(self, where: str = "/home/me/data.py:33", inside: str = "") -> None:
        self.where, self.inside = where, inside

    def row(self) -> Row:
        said = self.recorder.snapshot()
        row = make_row(said, said.activity + 12 * SECOND, self.state, self.where, self.inside)
        return replace(from_json(to_json(row)), pid=4711)

    def _site(self, line: int) -> int:
        code = compile("\n" * (line - 1) + "frame = get(0)", "/home/me/train.py", "exec")
        scope = {"get": __import__("sys")._getframe}
        exec(code, scope)
        return self.recorder.site(scope["frame"])


class Ranks(list):
    def __init__(self, size: int) -> None:
        super().__init__(Rank(rank, size) for rank in range(size))

    def enter(self, name: str, number: int, but: tuple = (), **options: Any) -> None:
        """All enter a collective and stay there, but for some."""
        for rank, it in enumerate(self):
            if rank not in but:
                it.enter(name, number, **options)

    def rows(self) -> list[Row]:
        return [rank.row() for rank in self]

    def told(self) -> str:
        return verdict(self.rows())


def four() -> Ranks:
    """Four ranks that have done 117 calls."""
    ranks = Ranks(4)
    for rank in ranks:
        rank.do("bcast", 117, line=130, peer=0)
    return ranks
