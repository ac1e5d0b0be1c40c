"""Every schedule against NumPy, all ranks simulated in one process, and proved free of deadlock."""

from collections.abc import Sequence

import numpy as np
import pytest

from hpcpar.schedule import Send, Step, check, point_to_point, simulate
from hpcpar.schedule import collectives as schedules
from hpcpar.schedule.exchange import split
from hpcpar.schedule.ring import ring_allgather, ring_reduce_scatter
from hpcpar.schedule.steps import dependencies, extents

RANKS = range(1, 18)
COUNTS = [0, 1, 13, 613]
SEGMENT = 31  # elements: many messages even for small arrays

pytestmark = pytest.mark.parametrize("size", RANKS)


def play(steps_of, size, given, out=None):
    """Run `steps_of(rank)` on buffers `given(rank)`; the buffers afterwards."""
    steps = [steps_of(rank) for rank in range(size)]
    check(steps)
    buffers = []
    for rank in range(size):
        own = {name: np.full(n, np.nan) for name, n in extents(steps[rank]).items()}
        buffers.append(own | given(rank))
        if out is not None:
            buffers[-1].setdefault("out", np.full(out, np.nan))
    simulate(steps, buffers, np.add)
    return buffers


def brought(size, count):
    return np.random.default_rng(count).standard_normal((size, count))


def tree(parts):
    """The sum in tree order."""
    while len(parts) > 1:
        pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
        parts = [pair[0] + pair[1] if len(pair) == 2 else pair[0] for pair in pairs]
    return parts[0]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("algorithm", ["auto", "direct", "halving", "ring"])
@pytest.mark.parametrize("source", ["x", "out"])
def test_allreduce(size, count, algorithm, source):
    x = brought(size, count)
    after = play(
        lambda rank: schedules.allreduce(rank, size, count, algorithm, source, segment=SEGMENT),
        size,
        lambda rank: {source: x[rank].copy()},
        count,
    )
    for own in after:
        assert np.array_equal(own["out"], after[0]["out"])
        np.testing.assert_allclose(own["out"], x.sum(axis=0), rtol=1e-12, atol=1e-12)
        if algorithm != "ring":
            assert np.array_equal(own["out"], tree(list(x)))


@pytest.mark.parametrize("count", COUNTS)
def test_reduce_scatter(size, count):
    x = brought(size, count)
    counts = tuple(len(run) for run in split(count, size))
    after = play(
        lambda rank: schedules.reduce_scatter(rank, size, counts, segment=SEGMENT),
        size,
        lambda rank: {"x": x[rank].copy()},
        0,
    )
    for own, expected in zip(after, np.array_split(tree(list(x)), size), strict=True):
        assert np.array_equal(own["out"], expected)


@pytest.mark.parametrize("count", COUNTS)
def test_ring_halves(size, count):
    x = brought(size, count)
    after = play(
        lambda rank: ring_reduce_scatter(rank, size, count, segment=SEGMENT),
        size,
        lambda rank: {"x": x[rank].copy()},
        count,
    )
    for own, run in zip(after, split(count, size), strict=True):
        mine = slice(run.start, run.stop)
        np.testing.assert_allclose(own["out"][mine], x.sum(0)[mine], rtol=1e-12, atol=1e-12)

    def slice_only(rank):
        out = np.full(count, np.nan)
        run = split(count, size)[rank]
        out[run.start : run.stop] = x[0][run.start : run.stop]
        return {"out": out}

    for own in play(
        lambda rank: ring_allgather(rank, size, count, segment=SEGMENT), size, slice_only
    ):
        assert np.array_equal(own["out"], x[0])


@pytest.mark.parametrize("count", COUNTS)
def test_reduce_to_any_root(size, count):
    x = brought(size, count)
    for root in {0, size // 2, size - 1}:
        after = play(
            lambda rank, root=root: schedules.reduce(rank, size, count, root, segment=SEGMENT),
            size,
            lambda rank: {"x": x[rank].copy()},
            count,
        )
        assert np.array_equal(after[root]["out"], tree(list(x)))
        assert all(np.array_equal(own["x"], mine) for own, mine in zip(after, x, strict=True))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("algorithm", ["auto", "tree", "chain"])
def test_bcast_from_any_root(size, count, algorithm):
    x = brought(size, count)
    for root in {0, size // 2, size - 1}:
        after = play(
            lambda rank, root=root: schedules.bcast(
                rank, size, count, root, algorithm, segment=SEGMENT
            ),
            size,
            lambda rank: {"x": x[rank].copy()},
        )
        assert all(np.array_equal(own["x"], x[root]) for own in after)


@pytest.mark.parametrize("most", COUNTS)
def test_gather_scatter_allgather(size, most):
    counts = tuple((7 * rank + most) % (most + 1) for rank in range(size))
    parts = [np.random.default_rng(rank).standard_normal(n) for rank, n in enumerate(counts)]
    joined, root = np.concatenate(parts), size // 2
    after = play(
        lambda rank: schedules.gather(rank, size, counts, root, segment=SEGMENT),
        size,
        lambda rank: {"x": parts[rank].copy()},
        len(joined),
    )
    assert np.array_equal(after[root]["out"], joined)
    after = play(
        lambda rank: schedules.allgather(rank, size, counts, segment=SEGMENT),
        size,
        lambda rank: {"x": parts[rank].copy()},
        len(joined),
    )
    assert all(np.array_equal(own["out"], joined) for own in after)
    after = play(
        lambda rank: schedules.scatter(rank, size, counts, root, segment=SEGMENT),
        size,
        lambda rank: {"x": joined.copy(), "out": np.full(counts[rank], np.nan)},
    )
    assert all(np.array_equal(own["out"], part) for own, part in zip(after, parts, strict=True))


@pytest.mark.parametrize("most", COUNTS)
def test_alltoall(size, most):
    table = np.random.default_rng(most).integers(0, most + 1, (size, size))  # [from, to]
    parts = [[np.full(table[i, j], i * size + j, float) for j in range(size)] for i in range(size)]
    after = play(
        lambda rank: schedules.alltoall(
            rank, size, tuple(table[rank]), tuple(table[:, rank]), segment=SEGMENT
        ),
        size,
        lambda rank: {"x": np.concatenate(parts[rank])},
        0,
    )
    for rank, own in enumerate(after):
        arrived = np.concatenate([parts[source][rank] for source in range(size)])
        assert np.array_equal(own["out"], arrived)


def test_barrier_hears_from_everybody(size):
    """What each rank knows of the others grows with every token; at the end it knows all."""
    steps = [schedules.barrier(rank, size) for rank in range(size)]
    check(steps)
    rounds = (size - 1).bit_length()
    known = [{rank} for rank in range(size)]
    for k in range(rounds):
        known = [known[rank] | known[(rank - (1 << k)) % size] for rank in range(size)]
    assert all(len(own) == size for own in known)
    assert all(len(own) == 2 * rounds for own in steps)


def test_barrier_rounds_follow_each_other(size):
    """A rank that stays away keeps every other from finishing."""
    if size > 1:
        with pytest.raises(ValueError, match="has no"):
            check([[], *(schedules.barrier(rank, size) for rank in range(1, size))])


def test_send_and_receive(size):
    message = np.arange(1000.0)
    last = size - 1
    if last:
        steps: list[Sequence[Step]] = [[] for _ in range(size)]
        steps[0] = point_to_point.send(last, 1000, segment=SEGMENT)
        steps[last] = point_to_point.receive(0, 1000, segment=SEGMENT)
        buffers = [{"x": message, "out": np.zeros(1000)} for _ in range(size)]
        check(steps)
        simulate(steps, buffers, np.add)
        assert np.array_equal(buffers[last]["out"], message)
    around = [
        point_to_point.sendrecv((rank + 1) % size, 1000, (rank - 1) % size, 1000, segment=SEGMENT)
        for rank in range(size)
    ]
    check(around)
    buffers = [{"x": message + rank, "out": np.zeros(1000)} for rank in range(size)]
    simulate(around, buffers, np.add)
    assert all(own["out"][0] == (rank - 1) % size for rank, own in enumerate(buffers))


def test_relay(size):
    """Along all ranks, each hop a relay that passes on what has come before the rest is there."""
    last = size - 1

    def steps_of(rank):
        if rank == 0:
            return point_to_point.send(1, 1000, segment=SEGMENT) if last else ()
        if rank == last:
            return point_to_point.receive(rank - 1, 1000, segment=SEGMENT)
        return point_to_point.relay(rank - 1, rank + 1, 1000, segment=SEGMENT)

    message = np.arange(1000.0)
    after = play(steps_of, size, lambda rank: {"x": message} if rank == 0 else {})
    assert all(np.array_equal(own["out"], message) for own in after[1:])
    for rank in range(1, last):
        waits = dependencies(steps_of(rank))
        sends = [w for step, w in zip(steps_of(rank), waits, strict=True) if isinstance(step, Send)]
        assert len(sends) == -(-1000 // SEGMENT) and all(len(wait) == 1 for wait in sends)
