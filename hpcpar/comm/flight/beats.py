"""Ranks that take no part any more, though their processes are there: stopped, or hung.

A watcher looks at its ranks once a beat. What counts is that a rank gets on: the state of its
process, and the calls in its recorder. That some thread of it is alive would prove nothing.
"""

from collections.abc import Sequence

from hpcpar.comm.flight.node import LocalRank, Node
from hpcpar.comm.flight.rows import Row

__all__ = ["BEAT", "Beats", "suspects"]

BEAT = 0.5  # seconds
LOST = 2  # beats that a rank may be stopped for


class Beats:
    """How long the ranks of a node have been stopped."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._stopped: dict[int, float] = {}  # seconds, by rank

    def look(self, elapsed: float) -> list[LocalRank]:
        """Ranks to give up, asked after each `elapsed` seconds.

        A job that was stopped as a whole, from a shell for instance, goes on later.
        """
        states = {rank.rank: rank.state() for rank in self._node.living}
        stopped = [number for number, state in states.items() if state == "stopped"]
        if "running" not in states.values():
            stopped = []
        self._stopped = {number: self._stopped.get(number, 0) + elapsed for number in stopped}
        return [
            self._node.ranks[number]
            for number, seconds in self._stopped.items()
            if seconds >= LOST * BEAT
        ]


def suspects(rows: Sequence[Row]) -> list[int]:
    """Living ranks that are in no call while most others wait in one; none if these are not most.

    Where all wait, or more compute than wait, nobody can be blamed, nor a spare rank, which has
    started a vote and naps until the others vote.
    """
    living = [row for row in rows if row.state in ("running", "stopped")]
    away = [
        row.rank
        for row in living
        if row.state == "stopped"
        or (row.call is None and not any(call.operation == "vote" for call in row.open))
    ]
    return away if 2 * len(away) < len(living) else []
