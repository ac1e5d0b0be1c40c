"""The sum of partial products over the layers of a grid, as a schedule. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from hpcpar.linalg.grids import Plan
from hpcpar.linalg.layout import Runs
from hpcpar.schedule.exchange import direct_tree
from hpcpar.schedule.shape import Node, combine_plan, subtrees
from hpcpar.schedule.steps import Recv, Send, Step
from hpcpar.schedule.tree import allreduce_roots

__all__ = ["layer_steps"]


@lru_cache(maxsize=256)
def layer_steps(
    plan: Plan,
    rank: int,
    segment: int,
    everywhere: bool = False,
    nodes: tuple[int, ...] | None = None,
    rows: tuple[range, ...] | None = None,
) -> tuple[Step, ...]:
    """Add up the layers' partial products of a block, a share of its rows on each layer.

    A rank's partial products are the buffers "root0", "root1", ...: one, or with tiles the roots of
    its part of the tree. Its share of the sum is "out"; `rows` are the layers' shares where they
    are not as in the plan's C. With `everywhere` each layer gets all rows: "out" stands for "root0"
    then, for the sum takes its place; `nodes` has each rank's node.
    """
    if rank >= plan.ranks:
        return ()
    line = plan.layer(rank)
    trees = _trees(plan, line)
    leaves = plan.steps if plan.tiles else sum(map(len, trees))
    roots = [root for tree in trees for root in tree]
    width = len(plan.work(rank)[1])
    if not roots or not width:
        return ()
    me = line.index(rank)
    names = [f"root{i}" for i in range(len(trees[me]))]
    if everywhere:
        names[:1] = ["out"] if names else []
        count = len(plan.work(rank)[0]) * width
        places = None if nodes is None else tuple(nodes[other] for other in line)
        summed = allreduce_roots(me, count, trees, leaves, names, segment=segment, nodes=places)
        return tuple(_among(step, line) for step in summed)
    owners = [place for place, tree in enumerate(trees) for _ in tree]
    shares = rows or [_only(plan.c.runs(plan.shape[:2], other)[0]) for other in line]
    top = plan.work(rank)[0].start
    slices = [
        range((run.start - top) * width, (run.stop - top) * width) if run else range(0)
        for run in shares
    ]
    steps = direct_tree(
        me, owners, combine_plan(roots, leaves), names, slices, segment=segment, share=False
    )
    return tuple(_among(step, line) for step in steps)


def _trees(plan: Plan, line: Sequence[int]) -> list[list[Node]]:
    """The partial sums of each layer, as nodes of the tree over the tiles, or over the layers."""
    if plan.tiles:
        runs = [plan.leaves(other) for other in line]
        return [subtrees(run.start, run.stop, plan.steps) if run else [] for run in runs]
    return [[Node(0, place)] if plan.work(other)[2] else [] for place, other in enumerate(line)]


def _only(runs: Runs) -> range:
    return runs[0] if runs else range(0)


def _among(step: Step, line: Sequence[int]) -> Step:
    """A step of the ranks of a line, with their numbers among all."""
    if isinstance(step, Send):
        return replace(step, to=line[step.to])
    if isinstance(step, Recv):
        return replace(step, source=line[step.source])
    return step
