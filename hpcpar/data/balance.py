"""Items of uneven cost, dealt to ranks so that all have about the same to do. Pure.

The order of items decides between equal ones, so every rank that deals the same costs has the same
result.
"""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple

import numpy as np

__all__ = ["compose", "deal", "deal_evenly", "imbalance", "largest_differencing", "longest_first"]

Groups = list[list[int]]  # the items of each rank, by their numbers
NEAR = 1.001  # of the least that there can be: nothing is worth computing below that


class Partial(NamedTuple):
    """Some of the items, dealt: the sums of all ranks, falling, and the items of each."""

    sums: np.ndarray
    items: Groups


def deal(costs: Sequence[float] | np.ndarray, ranks: int) -> Groups:
    """The items of each rank, rising: by the better of `longest_first` and `largest_differencing`.

    The second is left out where the first is within a thousandth of the best that there can be.
    """
    costs = _checked(costs, ranks)
    groups = longest_first(costs, ranks)
    least = max(costs.sum() / ranks, costs.max(initial=0.0))
    if _largest(costs, groups) > NEAR * least:
        groups = _better(costs, groups, largest_differencing(costs, ranks))
    return groups


def deal_evenly(costs: Sequence[float] | np.ndarray, ranks: int) -> Groups:
    """As `deal`, with the same number of items for every rank, as micro-batches need it.

    Where that is not near the best, items are exchanged until no exchange helps. Raises ValueError
    for items that cannot be dealt so.
    """
    costs = _checked(costs, ranks)
    if len(costs) % ranks:
        raise ValueError(f"{len(costs)} items cannot be dealt evenly to {ranks} ranks")
    groups = longest_first(costs, ranks, len(costs) // ranks)
    if _largest(costs, groups) > NEAR * costs.sum() / ranks:
        groups = _exchanged(costs, _better(costs, groups, _even_differencing(costs, ranks)))
    return groups


def longest_first(
    costs: Sequence[float] | np.ndarray, ranks: int, most: int | None = None
) -> Groups:
    """Each item, the costliest first, to the rank that has the least to do; at most `most` to one.

    The largest sum is at most 4/3 of the least possible (Graham, "Bounds on multiprocessing timing
    anomalies", SIAM Journal on Applied Mathematics 17, 1969), without `most`.
    """
    costs, groups = _checked(costs, ranks), [list[int]() for _ in range(ranks)]
    load = [(0.0, rank) for rank in range(ranks)]
    for item in _falling(costs):
        total, rank = heappop(load)
        groups[rank].append(item)
        if most is None or len(groups[rank]) < most:
            heappush(load, (total + float(costs[item]), rank))
    return [sorted(group) for group in groups]


def largest_differencing(costs: Sequence[float] | np.ndarray, ranks: int) -> Groups:
    """The largest differencing method (Karmarkar and Karp, Berkeley UCB/CSD 82/113, 1982).

    Each item begins as a deal of its own. The two deals whose ranks differ the most are put
    together, the largest sum of one with the smallest of the other, until one is left.
    """
    costs = _checked(costs, ranks)
    return _difference([_begin([item], costs, ranks) for item in _falling(costs)], ranks)


def imbalance(costs: Sequence[float] | np.ndarray, groups: Sequence[Sequence[int]]) -> float:
    """The largest sum over the mean: 1 where all ranks have the same to do."""
    costs = np.asarray(costs, np.float64)
    mean = costs.sum() / len(groups)
    return _largest(costs, groups) / mean if mean else 1.0


def compose(costs: np.ndarray, micro: int, leaves: int) -> np.ndarray:
    """An order of a batch's samples in which its micro-batches cost the same: int64 (batch,).

    So do its leaves, which are runs of micro-batches, where all have equally many.
    """
    micros = deal_evenly(costs, len(costs) // micro)
    if len(micros) % leaves == 0:
        sums = np.array([np.asarray(costs)[group].sum() for group in micros])
        micros = [micros[number] for leaf in deal_evenly(sums, leaves) for number in leaf]
    return np.array([sample for group in micros for sample in group], np.int64)


def _even_differencing(costs: np.ndarray, ranks: int) -> Groups:
    """Largest differencing that keeps the numbers even: it begins with deals of one item a rank.

    Michiels, Korst, Aarts and van Leeuwen, "Performance ratios for the Karmarkar-Karp differencing
    method", 2003: "balanced largest differencing".
    """
    order = _falling(costs)
    runs = [order[start : start + ranks] for start in range(0, len(order), ranks)]
    return _difference([_begin(run, costs, ranks) for run in runs], ranks)


def _exchanged(costs: np.ndarray, groups: Groups) -> Groups:
    """With exchanges of one item of the rank that has most for another's, while its sum falls.

    Differencing keeps items of about the same cost apart, also where only the smallest go with
    the largest.
    """
    table = np.array(groups)  # (ranks, items)
    if len(table) == 1:
        return groups
    of = costs[table]
    while True:
        sums = of.sum(axis=1)
        rank = int(np.argmax(sums))
        if sums[rank] <= NEAR * sums.mean():
            break
        moved = of[rank][:, None, None] - of  # (items, ranks, items)
        after = np.maximum(sums[rank] - moved, sums[:, None] + moved)
        after[:, rank] = np.inf
        place, other, there = np.unravel_index(int(np.argmin(after)), after.shape)
        if after[place, other, there] >= sums[rank] * (1 - 1e-9):
            break
        for array in (of, table):
            array[rank, place], array[other, there] = array[other, there], array[rank, place]
    return [sorted(group) for group in table.tolist()]


def _difference(parts: Sequence[Partial], ranks: int) -> Groups:
    if not parts:
        return [[] for _ in range(ranks)]
    waiting = [(_gap(part), number, part) for number, part in enumerate(parts)]
    heapify(waiting)
    for number in range(len(parts), 2 * len(parts) - 1):
        (_, _, one), (_, _, other) = heappop(waiting), heappop(waiting)
        sums = one.sums + other.sums[::-1]
        order = np.argsort(-sums, kind="stable")
        items = [one.items[place] + other.items[ranks - 1 - place] for place in order.tolist()]
        part = Partial(sums[order], items)
        heappush(waiting, (_gap(part), number, part))
    return [sorted(group) for group in waiting[0][2].items]


def _begin(items: Sequence[int], costs: np.ndarray, ranks: int) -> Partial:
    """One item a rank, or none; the items' costs do not rise."""
    sums = np.zeros(ranks)
    sums[: len(items)] = costs[list(items)]
    groups = [[item] for item in items]
    return Partial(sums, groups + [[] for _ in range(ranks - len(items))])


def _gap(part: Partial) -> float:
    """Minus the difference between its ranks: the largest comes first."""
    return float(part.sums[-1] - part.sums[0])


def _falling(costs: np.ndarray) -> list[int]:
    """The items, the costliest first, the first of equals first."""
    return np.argsort(-costs, kind="stable").tolist()


def _better(costs: np.ndarray, one: Groups, other: Groups) -> Groups:
    return other if _largest(costs, other) < _largest(costs, one) else one


def _largest(costs: np.ndarray, groups: Sequence[Sequence[int]]) -> float:
    return max(float(costs[list(group)].sum()) if group else 0.0 for group in groups)


def _checked(costs: Sequence[float] | np.ndarray, ranks: int) -> np.ndarray:
    """The costs as float64. Raises ValueError for no ranks, and for costs that cannot be."""
    costs = np.asarray(costs, np.float64)
    if ranks < 1 or not np.isfinite(costs).all() or (costs < 0).any():
        raise ValueError(f"costs must be numbers of at least 0, and ranks at least 1, not {ranks}")
    return costs
