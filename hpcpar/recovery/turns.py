"""Whose turn it is: which leaf is audited at a step, and by whom. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Turn", "turn_of"]


@dataclass(frozen=True)
class Turn:
    """A leaf, and the data-parallel ranks that compute it: by trade, as auditor, and as third.

    With one rank it is all of them, with two the third is the owner.
    """

    leaf: int
    owner: int
    auditor: int
    third: int


def turn_of(number: int, owners: Sequence[int], ranks: int) -> Turn:
    """The audit of this number, where `owners` has the data-parallel rank of every leaf.

    So many audits as there are leaves have each leaf once, and go round the owners; in each round
    the next rank of the owner's is the auditor.
    """
    seen = [owners[:leaf].count(owner) for leaf, owner in enumerate(owners)]
    order = sorted(range(len(owners)), key=lambda leaf: (seen[leaf], owners[leaf]))
    leaf, others = order[number % len(order)], ranks - 1
    owner = owners[leaf]
    if others == 0:
        return Turn(leaf, owner, owner, owner)
    shift = 1 + number // len(order) % others
    after = 1 + shift % others
    third = (owner + after) % ranks if others > 1 else owner
    return Turn(leaf, owner, (owner + shift) % ranks, third)
