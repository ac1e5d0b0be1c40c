"""Cuts the layers of a model into stages of even cost. Pure."""

from collections.abc import Sequence
from itertools import accumulate

__all__ = ["cut_stages"]


def cut_stages(
    costs: Sequence[float], stages: int, speeds: Sequence[float] | None = None
) -> list[range]:
    """Runs of consecutive layers, none empty, whose largest time is the least there is.

    Args:
        costs: of each layer, in any unit.
        speeds: of each stage's rank, relative to each other; None where all are the same.

    Raises ValueError for more stages than layers, and for speeds that are not one a stage. The
    answer is found by bisection over the time of the slowest stage (as in linear partitioning).
    """
    if not 1 <= stages <= len(costs):
        raise ValueError(f"{stages} stages: there are {len(costs)} layers, and none may be cut")
    speeds = [1.0] * stages if speeds is None else list(speeds)
    if len(speeds) != stages or min(speeds) <= 0:
        raise ValueError(f"speeds are {speeds}: one above 0 for each of {stages} stages")
    sums = [0.0, *accumulate(costs)]
    high = sums[-1] / min(speeds) + 1e-300
    low = 0.0
    best = _fill(sums, speeds, high)
    assert best is not None
    for _ in range(60):
        middle = (low + high) / 2
        found = _fill(sums, speeds, middle)
        if found is None:
            low = middle
        else:
            best, high = found, middle
    return best


def _fill(sums: Sequence[float], speeds: Sequence[float], limit: float) -> list[range] | None:
    """Stages that take no longer than `limit`, the first ones as many layers as they can; or None.

    As many as it can is not always good for a stage: it may leave the next one, which is slower,
    with nothing but a layer that is too large. So all ends that a stage can have are followed.
    """
    layers, count = len(sums) - 1, len(speeds)
    before: list[dict[int, int]] = []  # of each stage: where it may end -> where it then starts
    starts = [0]
    for place, speed in enumerate(speeds):
        ends: dict[int, int] = {}
        room, at = limit * speed * (1 + 1e-12), -1
        for end in range(starts[0] + 1, layers - (count - place - 1) + 1):
            if at + 1 < len(starts) and starts[at + 1] < end:
                at += 1
            if sums[end] - sums[starts[at]] <= room:  # from the last start before it, or from none
                ends[end] = starts[at]
        if not ends:
            return None
        before.append(ends)
        starts = list(ends)
    runs, stop = list[range](), layers
    for ends in reversed(before):
        if stop not in ends:
            return None
        runs.append(range(ends[stop], stop))
        stop = ends[stop]
    return runs[::-1]
