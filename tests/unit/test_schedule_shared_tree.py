"""Sums of leaves, and gathered slices, where ranks read each other: right, and without races."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.schedule import check, simulate
from hpcpar.schedule.exchange import split
from hpcpar.schedule.shape import deal, subtrees
from hpcpar.schedule.shared_tree import shared_gather_slices, shared_tree_sum
from hpcpar.schedule.steps import Recv, Send, extents
from hpcpar.tree import Subtotals


def subtotals(leaves, run, arrays):
    sums = Subtotals(leaves, arrays[0])
    for leaf in run:
        sums.add(leaf, arrays[leaf].copy())
    return sums.take(run)


def play(schedules, buffers):
    check(schedules)
    assert not any(isinstance(step, Send | Recv) for steps in schedules for step in steps)
    for own, steps in zip(buffers, schedules, strict=True):
        for name, length in extents(steps).items():
            own.setdefault(name, np.full(length, np.nan))
    simulate(schedules, buffers, np.add)


@given(st.integers(1, 12), st.integers(1, 20), st.sampled_from([1, 2, 13, 300]), st.booleans())
def test_the_sum_of_all_leaves(size, leaves, count, whole):
    arrays = np.random.default_rng(leaves).standard_normal((leaves, count))
    runs, slices = tuple(deal(leaves, size)), tuple(split(count, size))
    (expected,) = subtotals(leaves, range(leaves), arrays)
    most = max(len(subtrees(run.start, run.stop, leaves)) for run in runs)
    buffers = []
    for run in runs:
        roots = np.full(most * count, np.nan)
        for n, root in enumerate(subtotals(leaves, run, arrays)):
            roots[n * count : (n + 1) * count] = root
        buffers.append({"roots": roots})
    schedules = [shared_tree_sum(rank, slices, runs, leaves, whole, 101) for rank in range(size)]
    play(schedules, buffers)
    for mine, own in zip(slices, buffers, strict=True):
        run = slice(count) if whole else slice(mine.start, mine.stop)
        assert np.array_equal(own["roots"][run], expected[run])


@pytest.mark.parametrize("size", range(2, 10))
@pytest.mark.parametrize("count", [1, 13, 300])
def test_gathered_slices(size, count):
    slices = tuple(split(count, size))
    buffers = [{"out": np.full(count, np.nan)} for _ in slices]
    for own, mine in zip(buffers, slices, strict=True):
        own["out"][mine.start : mine.stop] = np.arange(mine.start, mine.stop)
    play([shared_gather_slices(rank, slices) for rank in range(size)], buffers)
    for own in buffers:
        assert np.array_equal(own["out"], np.arange(count))
