"""Sums of leaves by the tree, and what follows them, where ranks reach each other's memory.

As schedule/tree.py, but nothing is sent: a rank reads the others' roots where they lie.
"""

from dataclasses import replace
from functools import lru_cache

from hpcpar.schedule.exchange import piece, stages
from hpcpar.schedule.shape import combine_plan, subtrees
from hpcpar.schedule.shared import BLOCK, add_where_they_lie, others
from hpcpar.schedule.steps import OWN, Copy, Meet, Span, Step

__all__ = ["shared_gather_slices", "shared_tree_sum"]


@lru_cache(maxsize=512)
def shared_tree_sum(
    rank: int,
    slices: tuple[range, ...],
    runs: tuple[range, ...],
    leaves: int,
    whole: bool,
    block: int = BLOCK,
) -> tuple[Step, ...]:
    """Rank j adds up slice j of all ranks' roots, by the tree: the bits of `tree_allreduce`.

    Before, a rank has the roots of its run of leaves one after the other in its symmetric "roots".
    Afterwards its slice of the sum is in the first root's place (whether it had a root or not); if
    `whole`, so are those of all others, each written by its rank. No sum needs room of its own:
    between the meetings nobody but rank j touches slice j of any root, on any rank.
    """
    trees = [subtrees(run.start, run.stop, leaves) for run in runs]
    owners = [(owner, n) for owner, own in enumerate(trees) for n in range(len(own))]
    plan = combine_plan([node for own in trees for node in own], leaves)
    mine, count = slices[rank], slices[-1].stop

    def root(place: int, run: range) -> Span:
        owner, n = owners[place]
        start = n * count + run.start
        return Span("roots", start, start + len(run), OWN if owner == rank else owner)

    steps: list[Step] = [Meet()]
    blocks = [piece(mine, i, block) for i in range(stages((mine,), block))]
    for run in blocks or [mine]:
        total = Span("roots", run.start, run.stop)
        if run:
            steps += add_where_they_lie(plan, root, run, total)
        if whole:  # an empty slice too: all ranks say that they write into the others
            steps += [Copy(replace(total, rank=other), total) for other in others(rank, len(runs))]
    return (*steps, Meet())


@lru_cache(maxsize=512)
def shared_gather_slices(rank: int, slices: tuple[range, ...]) -> tuple[Step, ...]:
    """Every rank's slice of its symmetric "out" goes into everybody's."""
    copies = [
        Copy(Span("out", run.start, run.stop), Span("out", run.start, run.stop, other))
        for other in others(rank, len(slices))
        if (run := slices[other])
    ]
    return (Meet(), *copies, Meet())
