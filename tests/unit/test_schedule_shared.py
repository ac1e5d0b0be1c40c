"""Collectives on symmetric arrays, in one process: right, in tree order, without races."""

import numpy as np
import pytest

from hpcpar.schedule import Combine, Copy, ScheduleError, Span, check, simulate
from hpcpar.schedule.exchange import split
from hpcpar.schedule.shared import (
    fetching_allreduce,
    shared_allgather,
    shared_allreduce,
    shared_bcast,
    shared_reduce_scatter,
)
from hpcpar.schedule.steps import OWN, Meet, Recv, Send, extents

RANKS = range(1, 18)
COUNTS = [0, 1, 13, 4099]
BLOCK = 101

each_size = pytest.mark.parametrize("size", RANKS)
each_count = pytest.mark.parametrize("count", COUNTS)


def play(schedules, buffers):
    check(schedules)
    for own, steps in zip(buffers, schedules, strict=True):
        for name, length in extents(steps).items():
            own.setdefault(name, np.full(length, np.nan))
    simulate(schedules, buffers, np.add)
    return buffers


def brought(size, count):
    return np.random.default_rng(count).standard_normal((size, count))


def tree(parts):
    parts = list(parts)
    while len(parts) > 1:
        pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
        parts = [pair[0] + pair[1] if len(pair) == 2 else pair[0] for pair in pairs]
    return parts[0]


@each_size
@each_count
@pytest.mark.parametrize("one_shot", [True, False])
@pytest.mark.parametrize("target", ["x", "out"])
def test_allreduce(size, count, one_shot, target):
    x = brought(size, count)
    schedules = [
        shared_allreduce(rank, size, count, "x", target, block=BLOCK, one_shot=one_shot)
        for rank in range(size)
    ]
    buffers = [
        {"x": row.copy()} | ({"out": np.empty(count)} if target == "out" else {}) for row in x
    ]
    for rank, own in enumerate(play(schedules, buffers)):
        assert np.array_equal(own[target], tree(x))
        assert target == "x" or np.array_equal(own["x"], x[rank])


@each_size
@each_count
@pytest.mark.parametrize("target", ["x", "out"])
def test_allreduce_that_fetches(size, count, target):
    """Peers' spans are copied only, never added."""
    x = brought(size, count)
    schedules = [
        fetching_allreduce(rank, size, count, "x", target, block=BLOCK) for rank in range(size)
    ]
    foreign = [span.rank for steps in schedules for step in steps if isinstance(step, Combine)
               for span in (step.into, step.left, step.right)]  # fmt: skip
    assert set(foreign) <= {OWN}
    if size == 1:
        return
    buffers = [
        {"x": row.copy()} | ({"out": np.empty(count)} if target == "out" else {}) for row in x
    ]
    for own in play(schedules, buffers):
        assert np.array_equal(own[target], tree(x))


@each_size
@each_count
def test_reduce_scatter(size, count):
    x = brought(size, count)
    counts = tuple(len(run) for run in split(count, size))
    schedules = [
        shared_reduce_scatter(rank, size, counts, "x", block=BLOCK) for rank in range(size)
    ]
    buffers = [{"x": x[rank].copy(), "out": np.empty(counts[rank])} for rank in range(size)]
    for own, expected in zip(play(schedules, buffers), np.array_split(tree(x), size), strict=True):
        assert np.array_equal(own["out"], expected)


@each_size
@each_count
def test_bcast(size, count):
    x = brought(size, count)
    for root in {0, size // 2, size - 1}:
        schedules = [shared_bcast(rank, size, count, root) for rank in range(size)]
        for own in play(schedules, [{"x": row.copy()} for row in x]):
            assert np.array_equal(own["x"], x[root])


@each_size
@each_count
def test_allgather(size, count):
    counts = tuple((7 * rank + count) % (count + 1) for rank in range(size))
    x = brought(size, count)
    schedules = [shared_allgather(rank, size, counts) for rank in range(size)]
    buffers = [{"x": row.copy(), "out": np.empty(sum(counts))} for row in x]
    joined = np.concatenate([row[:n] for row, n in zip(x, counts, strict=True)])
    for own in play(schedules, buffers):
        assert np.array_equal(own["out"], joined)


def test_a_race_is_found():
    """Rank 1 writes what rank 0 still reads."""
    own, peer = Span("x", 0, 4), Span("x", 3, 7, 0)
    reading = [Meet(), Combine(Span("out", 0, 4), own, own), Meet()]
    writing = [Meet(), Copy(peer, Span("y", 0, 4)), Meet()]
    with pytest.raises(
        ScheduleError, match=r"rank 1, step 1 .*rank 0, step 1 .* without a meeting"
    ):
        check([reading, writing])
    check([reading, [Meet(), Meet(), *writing[1:2]]])


def test_reading_together_is_no_race():
    steps = [[Copy(Span("out", 0, 4), Span("x", 0, 4, other))] for other in (1, 0)]
    check(steps)


def test_a_rank_that_does_not_meet():
    with pytest.raises(ScheduleError, match=r"rank 0, step 0 \(meet\) waits for rank 1"):
        check([[Meet()], []])
    x = Span("x", 0, 1)
    with pytest.raises(ScheduleError, match="circular wait"):
        check([[Meet(), Send(1, x)], [Recv(0, x), Copy(x, x), Meet()]])


def test_a_peer_that_does_not_exist():
    with pytest.raises(ScheduleError, match="no rank 2 among 2"):
        check([[Copy(Span("x", 0, 1), Span("x", 0, 1, 2))], []])
