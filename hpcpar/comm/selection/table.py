"""The table of a selection, and what may stand in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from hpcpar.schedule.groups import consecutive

__all__ = ["DEFAULT", "LARGE", "OPERATIONS", "Selection", "Table", "candidates"]

DEFAULT = "auto"  # what a schedule takes by its own rule
MOST = 16  # rows of a table
_ENDLESS = 1 << 63
OPERATIONS = {"allreduce": ("halving", "direct"), "bcast": ("tree", "chain")}

LARGE = "large allreduce"  # of ordinary arrays, in place: what memory does, not the messages

Table = tuple[tuple[int | None, str], ...]  # up to so many bytes, None for any: algorithm


def candidates(operation: str, nodes: Sequence[int]) -> tuple[str, ...]:
    """The algorithms to choose from; `nodes` has the number of each rank's node.

    Hierarchical is one where a node has several ranks and there are several nodes, and their ranks
    follow one another: otherwise its allreduce adds in another order. Two ranks have no choice.
    """
    places = len(set(nodes))
    if len(nodes) <= 2:
        return ()
    if operation == LARGE:
        return ("remote", "halving") if places == 1 else ()
    far = 1 < places < len(nodes) and consecutive(nodes)
    return (*(["hierarchical"] if far else []), *OPERATIONS[operation])


@dataclass(frozen=True)
class Selection:
    """An algorithm for each operation and size; without tables it is the schedules' own choice."""

    tables: Mapping[str, Table] = field(default_factory=dict)

    def choose(self, operation: str, nbytes: int) -> str:
        """The algorithm of an operation on arrays of so many bytes; auto where none was chosen."""
        for limit, algorithm in self.tables.get(operation, ()):
            if limit is None or nbytes <= limit:
                return algorithm
        return DEFAULT

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {name: [list(row) for row in table] for name, table in self.tables.items()}

    @classmethod
    def from_dict(cls, fields: Any, nodes: Sequence[int]) -> "Selection":
        """What `to_dict` was given, if these ranks may use it.

        Raises ValueError for anything else, above all for an algorithm that is no candidate.
        """
        if not isinstance(fields, dict) or not fields.keys() <= {*OPERATIONS, LARGE}:
            raise ValueError("a selection has a table for each operation")
        tables = {name: _table(rows) for name, rows in fields.items()}
        for name, table in tables.items():
            allowed = (DEFAULT, *candidates(name, nodes))
            if any(algorithm not in allowed for _, algorithm in table):
                raise ValueError(f"a selection for {name} takes {', '.join(allowed)}")
        return cls(tables)


def _table(rows: Any) -> Table:
    if isinstance(rows, list) and 0 < len(rows) <= MOST and all(map(_is_row, rows)):
        *limits, last = (limit for limit, _ in rows)
        whole = last is None and all(type(limit) is int for limit in limits)
        if whole and all(one < other for one, other in pairwise([0, *limits, _ENDLESS])):
            return tuple((limit, algorithm) for limit, algorithm in rows)
    raise ValueError("a table has rows of bytes and algorithm, sizes growing, the last one null")


def _is_row(row: Any) -> bool:
    return isinstance(row, list) and len(row) == 2
