"""Which ranks hold the others up by computing slowly. Pure."""

from collections.abc import Collection, Sequence
from statistics import median
from typing import NamedTuple

__all__ = ["BEGINS", "ENDS", "Work", "stragglers"]

BEGINS = 1.3  # times the median of its peers
ENDS = 1.15  # lower, so that a rank near the limit is not named again and again


class Work(NamedTuple):
    """What a rank had to compute in a step.

    Attributes: place: ranks at the same place of the pipeline, tensor and context axes compute
    the same things; seconds, of a step; micros, micro-batches of a step.
    """

    place: int
    seconds: float
    micros: int


def stragglers(ranks: Sequence[Work], before: Collection[int] = ()) -> dict[int, float]:
    """The ranks that compute longer than their peers, and how many times as long.

    Peers have the same place. Who has more micro-batches may take longer, and who has fewer holds
    nobody up by taking longer for each: so it is the lower of both ratios that counts, that of a
    step and that of a micro-batch. With fewer than three peers nobody can tell who is slow.

    Args:
        before: those that were stragglers at the last look.
    """
    found = {}
    for place in {work.place for work in ranks}:
        peers = {r: w for r, w in enumerate(ranks) if w.place == place and w.micros > 0}
        if len(peers) < 3:
            continue
        a_step = median(work.seconds for work in peers.values())
        a_micro = median(work.seconds / work.micros for work in peers.values())
        for rank, work in peers.items():
            if min(a_step, a_micro) <= 0:
                continue
            ratio = min(work.seconds / a_step, work.seconds / work.micros / a_micro)
            if ratio > (ENDS if rank in before else BEGINS):
                found[rank] = ratio
    return dict(sorted(found.items()))
