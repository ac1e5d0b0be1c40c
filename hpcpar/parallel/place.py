"""A rank's place on one axis of a mesh: with its communicator in a run, without one in a plan."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["Place", "place_of"]


@dataclass(frozen=True)
class Place:
    """One of the ranks that share something.

    Attributes: rank, of size; comm, these ranks: None where there is one, and in a plan, which
    computes nothing.
    """

    rank: int = 0
    size: int = 1
    comm: "Communicator | None" = None


def place_of(ranks: "Communicator | Place | None") -> Place:
    """This rank's place among the ranks of a communicator; None is one rank."""
    if ranks is None:
        return Place()
    return ranks if isinstance(ranks, Place) else Place(ranks.rank, ranks.size, ranks)
