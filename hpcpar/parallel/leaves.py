"""Which rank computes which micro-batches of a step, in which order. Pure.

The global batch is a row of micro-batches, cut into leaves: runs of consecutive ones, which are
added in order (tree.py adds the leaves). A data-parallel rank has a run of leaves; or, where only
slices of sums are kept (ZeRO 2 and 3), leaves are dealt in rounds, so that each round is summed at
once.

All ranks of the data axis go through equally many `Slot`s. One without work stands for work that
another rank has at that time: there are collectives in it that all take part in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hpcpar.schedule.exchange import split
from hpcpar.schedule.tree import deal

__all__ = ["Slot", "deal_slots", "leaf_runs"]


@dataclass(frozen=True, slots=True)
class Slot:
    """One micro-batch of a rank, or a gap.

    Attributes: leaf and micro, their numbers in the global batch, -1 in a gap; first and last, of
    its leaf; ends, whether a sum is due afterwards: all ranks have come to the end of a round.
    """

    leaf: int = -1
    micro: int = -1
    first: bool = False
    last: bool = False
    ends: bool = False


def leaf_runs(micros: int, leaves: int) -> list[range]:
    """The micro-batches of each leaf, by numpy.array_split's rule."""
    return split(micros, min(leaves, micros))


def deal_slots(runs: Sequence[range], ranks: int, rounds: bool) -> list[list[Slot]]:
    """The slots of each rank of the data axis, for leaves of these micro-batches."""
    if not rounds:
        slots = [
            [slot for leaf in owned for slot in _of_leaf(leaf, runs[leaf])]
            for owned in deal(len(runs), ranks)
        ]
        return _filled(slots)
    dealt = [_round(runs, range(start, start + ranks)) for start in range(0, len(runs), ranks)]
    return [[slot for round_ in dealt for slot in round_[rank]] for rank in range(ranks)]


def _round(runs: Sequence[range], leaves: range) -> list[list[Slot]]:
    """One leaf a rank, of those that exist."""
    return _filled([_of_leaf(leaf, runs[leaf]) if leaf < len(runs) else [] for leaf in leaves])


def _of_leaf(leaf: int, run: range) -> list[Slot]:
    return [Slot(leaf, micro, micro == run[0], micro == run[-1]) for micro in run]


def _filled(slots: list[list[Slot]]) -> list[list[Slot]]:
    """Gaps at the end, so that all are equally long; the last slot of each ends the round."""
    longest = max(map(len, slots))
    filled = [[*own, *[Slot()] * (longest - len(own))] for own in slots]
    for own in filled:
        end = own[-1]
        own[-1] = Slot(end.leaf, end.micro, end.first, end.last, ends=True)
    return filled
