"""What was told of a hang, and to whom it is told again."""

import time

from hpcpar.apart.links import Message
from hpcpar.comm.flight.rows import Row
from hpcpar.comm.flight.verdict import Key

__all__ = ["Story"]

FRESH = 10.0  # seconds for which a story is told to others


class Story:
    """Attributes: sentence, table; killed, the ranks that were to blame and are gone."""

    def __init__(self, key: Key, rows: list[Row], sentence: str, table: str) -> None:
        self.key, self.sentence, self.table = key, sentence, table
        self.killed: list[int] = []
        self.calls = {row.rank: row.call for row in rows if row.call is not None}
        self.born = time.monotonic()

    def tells(self, rank: int, key: Key) -> bool:
        """Whether that rank's call is part of it: it was there already, or it is the same call."""
        call = self.calls.get(rank)
        there = call is not None and (call.group, call.kind, call.number) == key
        same = key == self.key and key[1] == "collective"
        return (there or same) and time.monotonic() - self.born < FRESH

    def message(self, key: Key, first: bool) -> Message:
        """The answer to a rank that asked about a call."""
        return {
            "ask": key, "sentence": self.sentence, "table": self.table, "first": first,
            "killed": self.killed,
        }  # fmt: skip
