"""Gradients that are read where they lie: the bits of those that travel, on any layout."""

from itertools import product

import numpy as np
import pytest
from long import only_on
from small_models import small_model

import hpcpar
from hpcpar.comm import Communicator
from hpcpar.nn import Arena
from hpcpar.optim import clip_scale
from hpcpar.parallel import BatchConfig, ParallelConfig, parallelize
from hpcpar.parallel.gradients import RunSum
from hpcpar.parallel.holdings import Holdings
from hpcpar.parallel.shared_buckets import shared_roots
from hpcpar.schedule.price import Link, Network, price
from hpcpar.schedule.shared_tree import shared_tree_sum
from hpcpar.schedule.tree import deal

pytestmark = pytest.mark.mpi


def some_buckets(size):
    """With slices of all lengths; of the short ones some are empty."""
    plain, _ = small_model("gpt", layers=2)
    return Holdings(plain, [range(len(plain.layers))], 0, 1, size).buckets


def both_ways(comm, buckets, leaves, runs, whole):
    """By messages, and in place."""
    arenas = Arena(), Arena()
    roots = shared_roots(comm, buckets, leaves, runs, arenas[1])
    assert None not in roots
    return [
        [
            RunSum(bucket, comm, leaves, arena, runs, whole, own)
            for bucket, own in zip(buckets, owned, strict=True)
        ]
        for arena, owned in zip(arenas, ([None] * len(buckets), roots), strict=True)
    ]


def fill(total, leaves, step):
    total.begin()
    for leaf in leaves:
        random = np.random.default_rng([step, leaf, total.bucket.size])
        array = total.buffer(leaf)
        array[...] = random.standard_normal(total.bucket.size)
        total.add(leaf, array)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("leaves", [1, 4, 7, 16])
@pytest.mark.parametrize("uneven", [False, True])
def test_the_bits_of_messages(comm, leaves, uneven, whole):
    if uneven or leaves == 4:
        only_on(comm.size, 1, 2, 3, 4)
    speeds = [1 + rank % 3 for rank in range(comm.size)] if uneven else None
    runs = deal(leaves, comm.size, speeds)
    buckets = some_buckets(comm.size)
    messages, here = both_ways(comm, buckets, leaves, runs, whole)
    for step in range(3):  # memory that is used again
        for sums in messages, here:
            for total in reversed(sums):
                fill(total, runs[comm.rank], step)
                total.end_round(True)
            for total in reversed(sums):
                total.finish()
        for one, other in zip(messages, here, strict=True):
            assert one.run == other.run and one.whole == other.whole
            assert one.result.tobytes() == other.result.tobytes()
    for total in here:
        assert total.shared_bytes % (4 * total.bucket.size) == 0
        total.begin()
    assert here[0].arena.lent == 0


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("whole", [False, True])
def test_who_is_done_goes_on(comm, whole):
    """The last rank has come to the end of all sums before any other begins its first."""
    runs = deal(comm.size, comm.size)
    _, here = both_ways(comm, some_buckets(comm.size), comm.size, runs, whole)
    for total in here:
        fill(total, runs[comm.rank], 0)
    token, last = np.zeros(1), comm.size - 1
    if comm.rank == last:
        for total in here:
            total.end_round(True)
        for other in range(last):
            comm.send(token, other)
    else:
        comm.recv(token, last)
        for total in here:
            total.end_round(True)
            comm.progress()
    for total in here:
        total.finish()
        expected = sum_of_all(total, comm.size)[total.run.start : total.run.stop]
        assert np.array_equal(total.result, expected)


def sum_of_all(total, leaves):
    alone = RunSum(total.bucket, None, leaves, Arena(), [range(leaves)])
    fill(alone, range(leaves), 0)
    alone.end_round(True)
    alone.finish()
    return alone.result


def told(comm, layout):
    """Losses, norms and the last gradients; and whether these are shared."""
    plain, part = small_model("gpt")
    mesh = hpcpar.Mesh(comm, **layout.sizes(comm.size))
    model = parallelize(plain, mesh, layout, BatchConfig(20, 2, 7))
    model.initialize(3)
    found = []
    for step in range(2):
        loss = model.loss_and_gradients(part, (np.arange(20) * 7 + step) % 64)
        norm = model.update.norm()
        model.update.step(1e-2, clip_scale(norm, 0.5))
        found += [loss, norm]
    found += [total.result.tobytes() for total in model.gradients]
    shared = {total.shared_bytes > 0 for total in model.gradients}
    mesh.close()
    return found, shared


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(("zero", "pipeline"), [*product((0, 1), (1, 2))])
def test_models_both_ways(comm, monkeypatch, zero, pipeline):
    if comm.size % pipeline:
        pytest.skip(f"{comm.size} ranks are no multiple of {pipeline}")
    only_on(comm.size, 2, 4)
    layout = ParallelConfig(zero=zero, pipeline=pipeline, schedule="zero-bubble")
    in_place, shared = told(comm, layout)
    assert shared == {comm.size > pipeline}
    monkeypatch.setattr("hpcpar.parallel.shared_buckets.shared_buckets", lambda *_: None)
    monkeypatch.setattr("hpcpar.parallel.weights.shared_buckets", lambda *_: None)
    assert told(comm, layout) == (in_place, {False})


@pytest.mark.mpi(min_size=2)
def test_gradients_travel_where_a_rank_has_no_memory(comm, monkeypatch):
    def refuse(size):
        if comm.rank == comm.size - 1:
            raise OSError("none is left")

    in_place, _ = told(comm, ParallelConfig(zero=1))
    monkeypatch.setattr("hpcpar.comm.sharing.check_memory", refuse)
    assert told(comm, ParallelConfig(zero=1)) == (in_place, {False})


@pytest.mark.parametrize("whole", [False, True])
def test_planned_bytes_are_measured(comm, whole):
    leaves, network = 7, Network(Link(1e-6, 1e9))
    runs = deal(leaves, comm.size)
    with Communicator(comm.mpi, device="cpu", timeout=20) as plain:
        buckets = some_buckets(plain.size)
        _, here = both_ways(plain, buckets, leaves, runs, whole)
        expected = 0
        for bucket, total in zip(buckets, here, strict=True):
            fill(total, runs[plain.rank], 0)
            total.end_round(True)
            total.finish()
            schedules = [
                shared_tree_sum(rank, bucket.slices, tuple(runs), leaves, whole)
                for rank in range(plain.size)
            ]
            expected += price(schedules, network, item=4).bytes["shared"][plain.rank]
        assert plain.ledger["reduce_gradients"].bytes == expected


@pytest.mark.mpi(min_size=2)
def test_peers_of_ordinary_arrays_are_refused(comm):
    steps = shared_tree_sum(comm.rank, (range(4), *[range(4, 4)] * (comm.size - 1)),
                            tuple(deal(comm.size, comm.size)), comm.size, True)  # fmt: skip
    with pytest.raises(ValueError, match="roots is no symmetric array of these ranks"):
        comm.irun(steps, {"roots": np.zeros(4, np.float32)})
    with pytest.raises(ValueError, match="roots is no symmetric array of these ranks"):
        comm.irun(steps, {"x": np.zeros(4, np.float32)})
    roots = comm.symmetric(4)
    comm.run(steps, {"roots": roots})
    comm.barrier()
