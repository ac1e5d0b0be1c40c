"""What the sums of gradients need on a rank: leaves, partial sums, results. Pure.

Sums take their arrays from one arena, so arrays are counted by size, as in `activations.py`; here
in elements. A step is gone through as backward goes through it.
"""

from collections import Counter, deque
from collections.abc import Sequence

from hpcpar.parallel.gradients import UNDER_WAY
from hpcpar.parallel.holdings import Holdings
from hpcpar.parallel.layout import Layout
from hpcpar.parallel.leaves import Slot
from hpcpar.parallel.shared_buckets import most_roots
from hpcpar.schedule.pipeline_actions import Action, Backward, BackwardWeight
from hpcpar.schedule.shape import roots

__all__ = ["gradient_elements"]


class _Lent:
    """Arrays that are lent, and the most there were, by size."""

    def __init__(self) -> None:
        self.now, self.most = Counter[int](), Counter[int]()

    def change(self, size: int, count: int) -> None:
        self.now[size] += count
        self.most[size] = max(self.most[size], self.now[size])


def gradient_elements(
    layout: Layout, holdings: Holdings, actions: Sequence[Action], rank: int, in_place: bool
) -> int:
    """Elements of all arrays of the sums, and of the room beside them, on this data-parallel rank.

    `in_place`: whether the ranks read each other's roots where they lie. With rounds, exchanges are
    taken to be under way as long as they may be.
    """
    slots, lent = layout.slots[rank], _Lent()
    backwards = [a for a in actions if isinstance(a, Backward | BackwardWeight)]
    if layout.rounds:
        rounds = _Rounds(layout, holdings, rank, lent)
        for action in backwards:
            for layer in reversed(holdings.stages[action.stage]):
                rounds.backward(slots[action.micro], holdings.gradients_of[layer])
        rounds.put(0)
        rounds.settle(0)
    else:
        _runs(layout, holdings, backwards, rank, lent, in_place)
    sizes = [bucket.size for bucket in holdings.buckets]
    several = any(slot.micro >= 0 and not slot.first for slot in slots)
    each = [sum(sizes[i] for i in of) for of in holdings.gradients_of]
    beside = max(each) if several and not layout.at_once else 0
    return beside + sum(size * count for size, count in lent.most.items())


def _runs(
    layout: Layout,
    holdings: Holdings,
    backwards: Sequence[Backward | BackwardWeight],
    rank: int,
    lent: _Lent,
    in_place: bool,
) -> None:
    """`RunSum`. All buckets of a stage go through the same: they need not be taken one by one.

    Roots that others read have rooms, as many on each rank; arrays are lent beyond them.
    """
    slots, run, leaves = layout.slots[rank], layout.runs[rank], len(layout.leaves)
    rooms = most_roots(layout.runs, leaves) if in_place and layout.data > 1 else 0
    # A whole sum, and a slice that is added in place, takes a root's place.
    apart = layout.data > 1 and layout.parallel.zero > 0 and not in_place
    window = UNDER_WAY + 1 if layout.at_once else 1  # layers whose gradients are not in leaves yet
    alike = {stage: _alike(holdings, layers, window) for stage, layers in holdings.stages.items()}
    results = {
        stage: Counter(
            len(bucket.slices[rank])
            for layer in layers
            for bucket in (holdings.buckets[i] for i in holdings.gradients_of[layer])
        )
        for stage, layers in holdings.stages.items()
    }
    for sizes in alike.values():
        for size, (count, _) in sizes.items():
            lent.change(size, rooms * count)
    held = dict.fromkeys(holdings.stages, 0)  # arrays of each bucket of a stage, beside its rooms
    for action in backwards:
        slot, stage = slots[action.micro], action.stage
        before = during = after = held[stage]
        if slot.micro >= 0:
            sums = roots(run.start, slot.leaf, leaves)
            then = roots(run.start, slot.leaf + 1, leaves) if slot.last else sums + 1
            during = max(0, sums + 1 - rooms) + (layout.at_once and not slot.first)
            after = max(0, then - rooms)
        for size, (count, together) in alike[stage].items():
            others = (count - together) * max(before, after)
            now = lent.now[size]
            lent.change(size, others + together * during - count * before)
            lent.now[size] = now + count * (after - before)
        if slot.ends and apart:
            for size, count in results[stage].items():
                lent.change(size, count)
        held[stage] = after


def _alike(holdings: Holdings, layers: range, window: int) -> dict[int, tuple[int, int]]:
    """By size of buckets: how many a stage has, and how many `window` of its layers have."""
    each = [Counter(holdings.buckets[i].size for i in holdings.gradients_of[n]) for n in layers]
    total, most = Counter[int](), Counter[int]()
    for start, one in enumerate(each):
        total += one
        most |= sum(each[start : start + window], Counter[int]())
    return {size: (count, most[size]) for size, count in total.items()}


class _Rounds:
    """`RoundSum`: leaves, the slices of all owners that are under way, partial sums."""

    def __init__(self, layout: Layout, holdings: Holdings, rank: int, lent: _Lent) -> None:
        self._ranks, self._leaves, self._lent = layout.data, len(layout.leaves), lent
        self._sizes = [bucket.size for bucket in holdings.buckets]
        self._slices = [len(bucket.slices[rank]) for bucket in holdings.buckets]
        self._held = [0] * len(self._sizes)  # partial sums
        self._round = [0] * len(self._sizes)
        self._open = [False] * len(self._sizes)
        self._under_way: deque[tuple[int, int, bool]] = deque()  # bucket, round, with a leaf
        self._at_once = layout.at_once
        self._written: deque[tuple[Slot, Sequence[int]]] = deque()  # not yet in their leaves

    def backward(self, slot: Slot, buckets: Sequence[int]) -> None:
        """The gradient of a layer, and the end of a round."""
        if slot.micro < 0:
            self.put(0)
            self._end(slot, buckets)
            return
        if slot.first or self._at_once:
            for bucket in buckets:
                self._lent.change(self._sizes[bucket], 1)
        self.put(UNDER_WAY - 1)
        self._written.append((slot, buckets))
        if not self._at_once:
            self.put(0)

    def put(self, left: int) -> None:
        """Into their leaves, until only so many layers are still summed over context ranks."""
        while len(self._written) > left:
            slot, buckets = self._written.popleft()
            for bucket in buckets:
                if slot.first:
                    self._open[bucket] = True
                elif self._at_once:
                    self._lent.change(self._sizes[bucket], -1)
            self._end(slot, buckets)

    def _end(self, slot: Slot, buckets: Sequence[int]) -> None:
        for bucket in reversed(buckets) if slot.ends else ():
            self.settle(UNDER_WAY - 1)
            self._lent.change(self._slices[bucket], self._owners(self._round[bucket]))
            self._under_way.append((bucket, self._round[bucket], self._open[bucket]))
            self._open[bucket] = False
            self._round[bucket] += 1

    def settle(self, left: int) -> None:
        """Wait until only so many are under way."""
        while len(self._under_way) > left:
            bucket, number, leaf = self._under_way.popleft()
            after = roots(0, min(self._leaves, (number + 1) * self._ranks), self._leaves)
            self._lent.change(
                self._slices[bucket], after - self._held[bucket] - self._owners(number)
            )
            self._held[bucket] = after
            self._lent.change(self._sizes[bucket], -leaf)

    def _owners(self, number: int) -> int:
        return min(self._ranks, self._leaves - number * self._ranks)
