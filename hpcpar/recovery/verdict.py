"""Who computed a leaf wrongly, from what several have computed. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hpcpar.recovery.record import Record
from hpcpar.recovery.turns import Turn

__all__ = ["Attempt", "Verdict", "judge", "next_to_compute"]


class Attempt(NamedTuple):
    """A data-parallel rank (with the ranks of its column), and what it computed of a leaf."""

    rank: int
    record: Record


@dataclass(frozen=True)
class Verdict:
    """What an audit found.

    Attributes: wrong, data-parallel ranks, each with a record of its own and one that differs from
    it, the right one where that is known; decided, whether it is; lasting, whether one of them is
    wrong in its last attempt too.
    """

    wrong: tuple[tuple[int, Record, Record], ...]
    decided: bool
    lasting: bool


def next_to_compute(attempts: Sequence[Attempt], turn: Turn) -> int | None:
    """The data-parallel rank that shall compute the leaf next; None where enough is known.

    The attempts begin with those of owner and auditor. Where they differ, a third decides, and who
    was wrong computes it again: a passing fault does not come back. Without a third, owner and
    auditor compute it again, until two different ranks have the same.
    """
    known, count = _right(attempts), len(attempts)
    if _same(attempts) or turn.owner == turn.auditor or count == 4:
        return None
    if turn.third == turn.owner:
        return None if known is not None else (turn.owner, turn.auditor)[count - 2]
    if count == 2:
        return turn.third
    return None if known is None else next(a.rank for a in attempts if a.record != known)


def judge(attempts: Sequence[Attempt]) -> Verdict | None:
    """None where all have the same."""
    if _same(attempts):
        return None
    ranks, right = list(dict.fromkeys(attempt.rank for attempt in attempts)), _right(attempts)
    if len(ranks) == 1:  # it has two opinions of its own
        first, *_, last = attempts
        return Verdict(((first.rank, first.record, last.record),), True, False)
    last_of = {attempt.rank: attempt.record for attempt in attempts}
    wrong = []
    for rank in ranks:
        own = [a.record for a in attempts if a.rank == rank]
        others = [right] if right is not None else [a.record for a in attempts if a.rank != rank]
        if pairs := [(x, other) for x in own for other in others if x != other]:
            wrong.append((rank, *pairs[0]))
    lasting = right is None or any(last_of[rank] != right for rank, *_ in wrong)
    return Verdict(tuple(wrong), right is not None, lasting)


def _same(attempts: Sequence[Attempt]) -> bool:
    return all(attempt.record == attempts[0].record for attempt in attempts)


def _right(attempts: Sequence[Attempt]) -> Record | None:
    """What two different ranks have found."""
    for i, one in enumerate(attempts):
        for other in attempts[i + 1 :]:
            if one.rank != other.rank and one.record == other.record:
                return one.record
    return None
