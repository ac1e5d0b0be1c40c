"""What the doctor says: findings; and words for the nodes, ranks and cores they speak of."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["KINDS", "Facts", "Finding", "Report", "many", "named", "nodes", "threads", "usable"]

KINDS = (
    "unfit",  # results would be wrong, or a call would fail
    "poor",  # everything works, but worse than it could
    "note",  # does no harm here
)
NAMED = 3  # nodes that a sentence names

Report = Mapping[str, Any]
Facts = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """What is wrong, and what to do, in half a sentence each."""

    kind: str
    text: str
    remedy: str


def usable(ranks: Sequence[Facts]) -> int:
    """Cores of a node that its ranks together may use."""
    cores = len({core for facts in ranks for core in facts["cores"]})
    allowed = [facts["quota"] for facts in ranks if facts["quota"]]
    return max(1, min([cores, *map(int, allowed)]))


def threads(facts: Facts) -> int:
    """Of a rank's BLAS."""
    return facts["blas_threads"] or facts["threads"]


def nodes(report: Report) -> dict[int, list[Facts]]:
    """The facts of the ranks, by node."""
    found = defaultdict(list)
    for facts in report["ranks"]:
        found[facts["node"]].append(facts)
    return dict(found)


def named(hosts: Sequence[str]) -> str:
    """node a, b, c and 12 more; a name that stands for several nodes is said once."""
    names = list(dict.fromkeys(hosts))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def many(count: int, what: str) -> str:
    """1 rank; 2 ranks."""
    return f"{count} {what}{'s' * (count != 1)}"
