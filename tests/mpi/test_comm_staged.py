"""The transport of GPU arrays on a stand-in: a stream that works late, in order, when looked at.

Whatever the transport takes from the stream too early has other values, so an event that was not
waited for shows.
"""

import numpy as np
import pytest

from hpcpar.comm import Communicator
from hpcpar.comm.transports.staged import StagedTransport

pytestmark = pytest.mark.mpi


class LateEvent:
    def __init__(self, stream, position):
        self.stream, self.position = stream, position

    @property
    def done(self):
        self.stream.crawl()
        return self.stream.finished >= self.position


class LateStream:
    """Does one piece of work at every third look."""

    def __init__(self):
        self.queue, self.finished, self.started, self.looks = [], 0, 0, 0
        self.pinned = 0

    def put(self, work):
        self.started += 1
        self.queue.append(work)

    def crawl(self):
        self.looks += 1
        if self.queue and self.looks % 3 == 0:
            self.queue.pop(0)()
            self.finished += 1

    def empty(self, size):
        self.pinned += size
        return np.full(size, 255, np.uint8)

    def bytes_of(self, flat):
        return flat.view(np.uint8)

    def after_caller(self):
        self.put(lambda: None)

    def to_host(self, host, source):
        self.put(lambda: host.__setitem__(..., source))

    def to_device(self, target, host):
        self.put(lambda: target.__setitem__(..., host))

    def compute(self, work):
        self.put(work)

    def event(self):
        return LateEvent(self, self.started)


@pytest.fixture
def staged(comm):
    """A communicator that takes all arrays for GPU arrays."""
    with Communicator(comm.mpi, device="cpu", timeout=20) as other:
        other._host = StagedTransport(LateStream())  # type: ignore[assignment]
        yield other


def brought(rank, count=1000):
    return np.random.default_rng([rank, count]).standard_normal(count).astype(np.float32)


@pytest.mark.parametrize("count", [0, 1, 1000, 600_011])
@pytest.mark.parametrize("algorithm", ["auto", "ring", "direct"])
def test_allreduce_has_the_bits_of_the_host(comm, staged, count, algorithm):
    x = brought(comm.rank, count)
    expected = comm.allreduce(x, "mean", algorithm=algorithm)
    assert np.array_equal(staged.allreduce(x, "mean", algorithm=algorithm), expected)
    assert np.array_equal(staged.allreduce(x, "mean", out=x, algorithm=algorithm), expected)


def test_every_collective(comm, staged):
    x = brought(comm.rank, 5 * comm.size).reshape(-1, 5)
    whole = np.concatenate([brought(r, 5 * comm.size).reshape(-1, 5) for r in range(comm.size)])
    assert np.array_equal(staged.allgather(x), whole)
    assert np.array_equal(staged.alltoall(x), whole[comm.rank :: comm.size])
    part = staged.scatter(whole if comm.rank == 0 else None)
    assert np.array_equal(part, x)
    gathered = staged.gather(x, comm.size - 1)
    assert np.array_equal(gathered, whole) if comm.rank == comm.size - 1 else gathered is None
    assert np.array_equal(staged.reduce_scatter(x), comm.reduce_scatter(x))
    staged.barrier()
    y = x.copy()
    assert np.array_equal(staged.bcast(y), whole[: comm.size])


@pytest.mark.mpi(min_size=2)
def test_messages_do_not_overtake(staged):
    """They are handed to MPI when their copies are done, but in the order of the calls."""
    counts = [300_000, 3, 600_000, 0, 5]
    if staged.rank == 0:
        requests = [staged.isend(brought(i, n), 1) for i, n in enumerate(counts)]
        [request.wait() for request in reversed(requests)]
    elif staged.rank == 1:
        outs = [np.empty(n, np.float32) for n in counts]
        requests = [staged.irecv(out, 0) for out in outs]
        [request.wait() for request in requests]
        assert all(np.array_equal(out, brought(i, len(out))) for i, out in enumerate(outs))


def test_pinned_memory_is_used_again(staged):
    x = brought(staged.rank, 400_000)
    for _ in range(3):
        staged.allreduce(x)
    pinned = staged._host._stream.pinned
    for _ in range(5):
        staged.allreduce(x)
    assert staged._host._stream.pinned <= 1.5 * pinned
