"""Several operations under way at once, communicators of parts, and the ledger."""

import gc
import time

import numpy as np
import pytest

from hpcpar.comm import Communicator
from hpcpar.comm.progress import start_progress
from hpcpar.schedule import deal, subtrees, tree_allreduce

pytestmark = pytest.mark.mpi


def start_all(comm, turn):
    """One request of every collective, with its expected result."""
    rank, size = comm.rank, comm.size
    x = np.full((size, 40), rank + turn, np.float64)
    every = np.arange(size)[:, None] + np.full((size, 40), turn, np.float64)
    total = np.full((size, 40), every.sum(0)[0])
    joined = np.repeat(every, size, axis=0)
    return [
        (comm.iallreduce(x), total),
        (comm.iallreduce(np.full(300_000, 1.0), algorithm="ring"), np.full(300_000, float(size))),
        (comm.ibcast(x.copy(), size - 1), np.full((size, 40), size - 1.0 + turn)),
        (comm.ireduce(x, 0), total if rank == 0 else None),
        (comm.igather(x, 0), joined if rank == 0 else None),
        (comm.iscatter(every if rank == 0 else None), every[rank : rank + 1]),
        (comm.iallgather(x), joined),
        (comm.ireduce_scatter(x), total[:1]),
        (comm.ialltoall(x), every),
        (comm.ibarrier(), None),
        (comm.iallreduce(x, algorithm="mpi"), total),
    ]


@pytest.mark.parametrize("order", ["as started", "reversed", "shuffled"])
def test_any_order_of_waiting(comm, order):
    """The order may even differ between the ranks."""
    requests = [pair for turn in range(3) for pair in start_all(comm, turn)]
    if order == "reversed":
        requests.reverse()
    elif order == "shuffled":
        np.random.default_rng(comm.rank).shuffle(requests)
    for request, expected in requests:
        result = request.wait()
        if expected is None:
            assert result is None
        else:
            assert result.shape == expected.shape and np.array_equal(result, expected)
        assert request.done and request.test()


def test_test_gets_there(comm):
    requests = start_all(comm, 1)
    while not all([request.test() for request, _ in requests]):
        pass
    assert np.array_equal(requests[0][0].wait(), requests[0][1])


def test_waiting_for_one_moves_the_others(comm):
    """Rank 0 waits for what the others send only after an operation that it does not wait for."""
    first = comm.iallreduce(np.ones(200_000))
    if comm.rank == 0:
        for source in range(1, comm.size):
            comm.recv(np.empty(1), source)
    else:
        first.wait()
        comm.send(np.ones(1), 0)
    assert first.wait()[0] == comm.size


def test_split(comm):
    half = comm.split(comm.rank % 2, key=-comm.rank)
    members = sorted(range(comm.rank % 2, comm.size, 2), reverse=True)
    assert (half.size, half.rank) == (len(members), members.index(comm.rank))
    assert np.array_equal(half.allgather(np.array([comm.rank])), members)
    assert half.device == comm.device and half.local_size <= comm.local_size
    outer, inner = comm.iallreduce(np.ones(5)), half.iallreduce(np.ones(5))
    if comm.rank % 2:
        assert outer.wait()[0] == comm.size
    assert inner.wait()[0] == half.size
    assert outer.wait()[0] == comm.size
    half.close()
    half.close()
    with pytest.raises(ValueError, match="closed"):
        half.barrier()


def test_split_without_some(comm):
    part = comm.split(None if comm.rank else 0)
    assert (part is None) == (comm.rank > 0)
    if part is not None:
        with part:
            assert part.allreduce(np.ones(1))[0] == 1


def test_place(comm):
    assert 0 <= comm.local_rank < comm.local_size <= comm.size
    assert 0 <= comm.node < comm.nodes
    assert comm.mpi.Get_size() == comm.size and comm.mpi.Get_rank() == comm.rank


def test_two_communicators_do_not_mix(comm):
    with Communicator(comm.mpi, timeout=20) as other:
        one, two = comm.iallreduce(np.ones(9)), other.iallreduce(np.full(9, 2.0))
        order = (one, two) if comm.rank % 2 else (two, one)
        for request in order:
            request.wait()
        assert one.wait()[0] == comm.size and two.wait()[0] == 2 * comm.size


def test_close_waits_for_what_is_under_way(comm):
    with Communicator(comm.mpi, timeout=20) as other:
        request = other.iallreduce(np.ones(100_000))
    assert request.done and request.wait()[0] == comm.size


def test_ledger(comm):
    with Communicator(comm.mpi, timeout=20) as other:
        for _ in range(3):
            other.allreduce(np.ones(1000, np.float32), algorithm="ring")
        entry = other.ledger["allreduce"]
        assert entry.calls == 3 and entry.seconds > 0
        assert entry.messages == 3 * 2 * (comm.size - 1)
        assert abs(entry.bytes - 3 * 2 * 4000 * (comm.size - 1) / comm.size) <= 3 * 8 * comm.size
        assert other.ledger["bcast"].calls == 0
        assert "allreduce" in str(other.ledger)


@pytest.mark.parametrize("op", ["sum", "max"])
def test_run_a_schedule(comm, op):
    leaves, count = 5, 1000
    runs = deal(leaves, comm.size)
    mine = runs[comm.rank]
    ufunc = {"sum": np.add, "max": np.maximum}[op]
    buffers = {"out": np.empty(count)}
    for i, node in enumerate(subtrees(mine.start, mine.stop, leaves)):
        values = [np.full(count, leaf + 1.0) for leaf in node.leaves(leaves)]
        buffers[f"root{i}"] = ufunc.reduce(values)
    steps = tree_allreduce(comm.rank, comm.size, count, runs, leaves)
    for _ in range(2):
        comm.run(steps, buffers, op=op, name="tree")
        assert np.all(buffers["out"] == (15 if op == "sum" else 5))
    assert comm.ledger["tree"].calls >= 2
    with pytest.raises(ValueError, match="out has 7 elements, the schedule 1000"):
        comm.run(steps, {**buffers, "out": np.empty(7)})
    with pytest.raises(ValueError, match="op is 'mean'"):
        comm.run(steps, buffers, op="mean")
    with pytest.raises(ValueError, match="differ in dtype"):
        comm.run(steps, {"x": np.empty(1), **buffers, "out": np.empty(count, np.float32)})


def test_progress_without_a_request_in_hand(comm):
    """What a training loop does between the layers of its backward pass."""
    request = comm.iallreduce(np.full(300_000, float(comm.rank)))
    deadline = time.monotonic() + 20
    while not request.done:
        comm.progress()
        assert time.monotonic() < deadline
    assert (request.wait() == sum(range(comm.size))).all()


def test_a_progress_thread_moves_requests_on(comm):
    """The main thread calls nothing of the package meanwhile; the thread ends with its owner."""
    with Communicator(comm.mpi, timeout=20) as other:
        thread = start_progress(other._engine)
        for count in (10, 300_000):
            request = other.iallreduce(np.full(count, float(other.rank)))
            deadline = time.monotonic() + 20
            while not request.done:
                time.sleep(0.001)
                assert time.monotonic() < deadline
            assert (request.wait() == sum(range(other.size))).all()
        assert (other.allreduce(np.ones(7)) == other.size).all()
    del other, request
    gc.collect()
    thread.join(timeout=20)
    assert not thread.is_alive()
