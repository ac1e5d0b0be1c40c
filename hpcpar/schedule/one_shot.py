"""Small reductions: everybody gets everything in one round, and adds it up by itself."""

from functools import lru_cache

from hpcpar.schedule.exchange import direct_tree
from hpcpar.schedule.steps import Step
from hpcpar.schedule.tree import Node, combine_plan

__all__ = ["one_shot_allreduce", "tree_over_ranks"]


@lru_cache(maxsize=64)
def tree_over_ranks(size: int) -> tuple[tuple[int, int, int], ...]:
    """The additions (into, left, right) of the tree over `size` ranks, one value each."""
    return tuple(combine_plan([Node(0, rank) for rank in range(size)], size))


@lru_cache(maxsize=256)
def one_shot_allreduce(rank: int, size: int, count: int, source: str = "x") -> tuple[Step, ...]:
    """out = the reduction of every rank's `source`: one message to each other rank."""
    plan, everything = tree_over_ranks(size), [range(count)] * size
    return tuple(
        direct_tree(
            rank, range(size), plan, [source], everything, segment=max(1, count), share=False
        )
    )
