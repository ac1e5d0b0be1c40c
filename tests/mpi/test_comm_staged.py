"""The transports of GPU arrays on a stand-in whose streams work late, or too early where they may.

Whatever a transport does not wait for shows: old values are read, or new ones overwritten.
"""

import numpy as np
import pytest
from late_gpu import LateGpu

from hpcpar.comm import Communicator
from hpcpar.comm.transports.direct import DirectTransport
from hpcpar.comm.transports.lanes import WINDOW
from hpcpar.comm.transports.staged import CHUNK, StagedTransport

pytestmark = pytest.mark.mpi

KINDS = {"staged": StagedTransport, "direct": DirectTransport}


@pytest.fixture(params=["staged-0", "staged-1", "staged-6", "direct-0", "direct-6"])
def device(comm, request):
    """A communicator that takes all arrays for GPU arrays.

    Haste 0: all streams are late; 1: the arithmetic is hasty; 6: the copies are.
    """
    kind, haste = request.param.split("-")
    with Communicator(comm.mpi, device="cpu", timeout=20) as other:
        other.gpu = LateGpu(int(haste))
        other._host = KINDS[kind](other.gpu)  # type: ignore[assignment]
        yield other


def brought(rank, count=1000):
    return np.random.default_rng([rank, count]).standard_normal(count).astype(np.float32)


@pytest.mark.parametrize(
    "count, algorithm",
    [
        (0, "auto"),
        (1, "auto"),
        (1000, "direct"),
        (1000, "ring"),
        (300_011, "auto"),
        (300_011, "direct"),
    ],
)
def test_allreduce_has_the_bits_of_the_host(comm, device, count, algorithm):
    x = brought(comm.rank, count)
    expected = comm.allreduce(x, "mean", algorithm=algorithm)
    assert np.array_equal(device.allreduce(x, "mean", algorithm=algorithm), expected)
    assert np.array_equal(device.allreduce(x, "mean", out=x, algorithm=algorithm), expected)


def test_every_collective(comm, device):
    x = brought(comm.rank, 5 * comm.size).reshape(-1, 5)
    whole = np.concatenate([brought(r, 5 * comm.size).reshape(-1, 5) for r in range(comm.size)])
    assert np.array_equal(device.allgather(x), whole)
    assert np.array_equal(device.alltoall(x), whole[comm.rank :: comm.size])
    part = device.scatter(whole if comm.rank == 0 else None)
    assert np.array_equal(part, x)
    gathered = device.gather(x, comm.size - 1)
    assert np.array_equal(gathered, whole) if comm.rank == comm.size - 1 else gathered is None
    assert np.array_equal(device.reduce_scatter(x), comm.reduce_scatter(x))
    device.barrier()
    y = x.copy()
    assert np.array_equal(device.bcast(y), whole[: comm.size])


def test_what_the_caller_still_computes_is_waited_for(comm, device):
    x = np.full(300_000, np.nan, np.float32)
    device.gpu.slow.put(lambda: x.__setitem__(..., brought(comm.rank, 300_000)))
    expected = comm.allreduce(brought(comm.rank, 300_000))
    assert np.array_equal(device.allreduce(x), expected)


def test_several_operations_under_way(comm, device):
    """They share streams and pinned memory, and are waited for in another order."""
    arrays = [brought(comm.rank, count) for count in (300_000, 7, 100_000)]
    expected = [comm.allreduce(x) for x in arrays]
    requests = [device.iallreduce(x) for x in arrays]
    totals = [request.wait() for request in reversed(requests)][::-1]
    assert all(map(np.array_equal, totals, expected))


@pytest.mark.mpi(min_size=2)
def test_messages_do_not_overtake(device):
    """They are handed to MPI when the GPU is ready, but in the order of the calls."""
    counts = [300_000, 3, 0, 5, 1_500_000, 1]
    if device.rank == 0:
        requests = [device.isend(brought(i, n), 1) for i, n in enumerate(counts)]
        [request.wait() for request in reversed(requests)]
    elif device.rank == 1:
        outs = [np.empty(n, np.float32) for n in counts]
        requests = [device.irecv(out, 0) for out in outs]
        [request.wait() for request in requests]
        assert all(np.array_equal(out, brought(i, len(out))) for i, out in enumerate(outs))


@pytest.mark.mpi(min_size=2)
def test_an_error_is_told_to_the_transfer_it_belongs_to(comm):
    """Whichever transfer is tested, all move; but only the wrong one fails."""
    channel, transport = comm.mpi.Dup(), StagedTransport(LateGpu())
    mine, out = brought(comm.rank, 5).view(np.uint8), np.empty(5, np.float32)
    if comm.rank == 0:
        sent = [transport.send(channel, mine, 1, tag) for tag in (1, 2)]
        while not all(map(transport.test, sent)):
            pass
    elif comm.rank == 1:
        wrong = transport.receive(channel, np.empty(4000, np.uint8), 0, 1)
        right = transport.receive(channel, out.view(np.uint8), 0, 2)
        while not (right.over and wrong.over):
            transport._lanes.move()
        assert transport.test(right)
        with pytest.raises(ValueError, match="rank 0 sent 20 bytes where 4000"):
            transport.test(wrong)
        after = transport._arithmetic.event()
        while not after.done:
            pass
        assert np.array_equal(out, brought(0, 5))
    channel.Free()


@pytest.mark.parametrize("device", ["staged-0"], indirect=True)
def test_pinned_memory_is_a_few_chunks_a_peer(device):
    count = 16 * CHUNK // 4
    x, out = np.full(count, device.rank, np.float32), np.empty(count, np.float32)
    following, previous = (device.rank + 1) % device.size, (device.rank - 1) % device.size
    for _ in range(3):
        device.sendrecv(x, following, out, previous)
        assert np.all(out == previous)
    assert device.gpu.pinned_bytes <= 3 * WINDOW * CHUNK
