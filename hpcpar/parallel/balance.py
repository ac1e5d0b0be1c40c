"""Whether work should move from slow to fast ranks, by what was measured. Pure.

Whole leaves move between data-parallel ranks, whole layers between stages: neither changes a bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hpcpar.parallel.layout import Layout
from hpcpar.parallel.stages import cut_stages

__all__ = ["GAIN", "Work", "better_speeds", "rank_speeds", "step_seconds"]

GAIN = 0.1  # of a step, that a move has to save
GRAIN = 0.05  # speeds are told apart no finer than that


@dataclass(frozen=True)
class Work:
    """How the layers of a model are shared.

    Attributes: stages, the layers of each virtual stage; costs, seconds of each layer, or any
    other measure that all ranks have in common.
    """

    stages: Sequence[range]
    costs: Sequence[float]

    def cost(self, pipeline_rank: int, pipeline: int) -> float:
        """Of a micro-batch on a pipeline rank."""
        own = self.stages[pipeline_rank::pipeline]
        return sum(self.costs[layer] for stage in own for layer in stage)


def rank_speeds(layout: Layout, work: Work, seconds: Sequence[float]) -> tuple[float, ...]:
    """How fast each rank is relative to the fastest, from the seconds that it computed in a step.

    One that had nothing to compute is as fast as it was before.
    """
    before = layout.parallel.speeds or (1.0,) * layout.ranks
    done = _each(layout, work)
    known = [d / s if d > 0 and s > 0 else 0.0 for d, s in zip(done, seconds, strict=True)]
    fastest = max(known)
    if fastest <= 0:
        return before
    # The one that is the fastest now was so fast before: that makes the others' comparable.
    scale = before[known.index(fastest)]
    speeds = [k / fastest if k else b / scale for k, b in zip(known, before, strict=True)]
    return tuple(min(1.0, max(GRAIN, round(speed / GRAIN) * GRAIN)) for speed in speeds)


def step_seconds(layout: Layout, work: Work, speeds: Sequence[float]) -> float:
    """Of the slowest rank, in the unit of the costs."""
    return max(d / speed for d, speed in zip(_each(layout, work), speeds, strict=True))


def better_speeds(
    layout: Layout, work: Work, seconds: Sequence[float], gain: float = GAIN
) -> tuple[float, ...] | None:
    """Speeds to deal leaves and cut stages by, where that saves so much of a step; else None.

    Args:
        seconds: that each rank of the layout computed in a step.
    """
    speeds = rank_speeds(layout, work, seconds)
    after = replace(layout, parallel=replace(layout.parallel, speeds=speeds))
    cut = Work(cut_stages(work.costs, after.stages, after.stage_speeds), work.costs)
    now, then = step_seconds(layout, work, speeds), step_seconds(after, cut, speeds)
    return speeds if then < (1 - gain) * now else None


def _each(layout: Layout, work: Work) -> list[float]:
    """What each rank computes in a step."""
    micros = [sum(slot.micro >= 0 for slot in own) for own in layout.slots]
    costs = [work.cost(rank, layout.pipeline) for rank in range(layout.pipeline)]
    among = layout.context * layout.tensor
    places = [rank // among for rank in range(layout.ranks)]
    return [micros[p // layout.pipeline] * costs[p % layout.pipeline] for p in places]
