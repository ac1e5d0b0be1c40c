"""The NCCL transport on stand-ins: its groups are real messages of MPI, its streams work late."""

from functools import partial

import ml_dtypes
import numpy as np
import pytest
from late_gpu import LateGpu
from late_nccl import LateNccl

from hpcpar.comm import Communicator
from hpcpar.comm.transports.mpi import HostTransport
from hpcpar.comm.transports.nccl import NcclTransport

pytestmark = pytest.mark.mpi


class OnNccl(Communicator):
    """All arrays are taken for GPU arrays; collectives come to the card in their order."""

    def _start(self, name, work, kind="collective", tag=-1, **facts):
        def in_turn(call):
            return self._host.in_turn(call, work(call))

        ordered = in_turn if isinstance(self._host, NcclTransport) else work
        return super()._start(name, ordered, kind, tag, **facts)


@pytest.fixture(params=[0, 3], ids="haste {}".format)
def device(comm, request):
    """Haste: bit 0 for the arithmetic's stream, bit 1 for NCCL's."""
    channel = comm.mpi.Dup()
    with OnNccl(comm.mpi, device="cpu", timeout=20) as other:
        other.gpu, other.nccl = LateGpu(request.param), LateNccl(channel)
        other._host = NcclTransport(other.gpu, channel, other.nccl, timeout=20)
        yield other
        other._host.close()
        assert other.nccl.comm.ended == "destroyed"
        other._host = HostTransport()
    channel.Free()


def brought(rank, count=1000):
    return np.random.default_rng([rank, count]).standard_normal(count).astype(np.float32)


@pytest.mark.parametrize("count, algorithm", [
    (0, "auto"), (1, "auto"), (1000, "direct"), (1000, "ring"), (1000, "halving"),
    (700_011, "auto"),
])  # fmt: skip
def test_allreduce_has_the_bits_of_the_host(comm, device, count, algorithm):
    x = brought(comm.rank, count)
    expected = comm.allreduce(x, "mean", algorithm=algorithm)
    assert np.array_equal(device.allreduce(x, "mean", algorithm=algorithm), expected)
    assert np.array_equal(device.allreduce(x, "mean", out=x, algorithm=algorithm), expected)


@pytest.mark.parametrize("dtype", ["complex128", "int16", ml_dtypes.bfloat16])
def test_what_nccl_does_not_know_travels_as_bytes(comm, device, dtype):
    x = (brought(comm.rank) * 9).astype(dtype)
    assert np.array_equal(device.allreduce(x), comm.allreduce(x))
    assert np.array_equal(device.allgather(x), comm.allgather(x))


def test_every_collective(comm, device):
    x = brought(comm.rank, 5 * comm.size).reshape(-1, 5)
    whole = np.concatenate([brought(r, 5 * comm.size).reshape(-1, 5) for r in range(comm.size)])
    assert np.array_equal(device.allgather(x), whole)
    assert np.array_equal(device.alltoall(x), whole[comm.rank :: comm.size])
    assert np.array_equal(device.scatter(whole if comm.rank == 0 else None), x)
    gathered = device.gather(x, comm.size - 1)
    assert np.array_equal(gathered, whole) if comm.rank == comm.size - 1 else gathered is None
    assert np.array_equal(device.reduce_scatter(x), comm.reduce_scatter(x))
    reduced = device.reduce(x, root=comm.size - 1)
    expected = comm.reduce(x, root=comm.size - 1)
    assert (reduced is None and expected is None) or np.array_equal(reduced, expected)
    assert np.array_equal(device.bcast(x.copy()), whole[: comm.size])


def test_several_under_way_come_to_the_card_in_one_order(comm, device):
    """The ranks wait for them in different orders, and NCCL has no tags to tell them apart."""
    arrays = [brought(comm.rank, count) for count in (300_000, 7, 100_000, 50)]
    expected = [comm.allreduce(arrays[0]), comm.allgather(arrays[1]),
                comm.allreduce(arrays[2]), comm.allgather(arrays[3])]  # fmt: skip
    requests = [device.iallreduce(arrays[0]), device.iallgather(arrays[1]),
                device.iallreduce(arrays[2]), device.iallgather(arrays[3])]  # fmt: skip
    order = np.roll(np.arange(4), comm.rank)
    results = {int(i): requests[i].wait() for i in order}
    assert all(np.array_equal(results[i], expected[i]) for i in range(4))


def test_what_the_caller_still_computes_is_waited_for(comm, device):
    x = np.full(100_000, np.nan, np.float32)
    device.gpu.slow.put(lambda: x.__setitem__(..., brought(comm.rank, 100_000)))
    assert np.array_equal(device.allreduce(x), comm.allreduce(brought(comm.rank, 100_000)))


@pytest.mark.parametrize("op", ["sum", "max", "min"])
@pytest.mark.parametrize("count", [0, 1, 5000])
def test_the_librarys_own_allreduce(comm, device, op, count):
    x = np.arange(count, dtype=np.int64) * (comm.rank + 1)
    for out in (np.empty_like(x), x.copy()):
        source = out if np.array_equal(out, x) else x
        plus_one = partial(np.add, out, 1, out=out)
        start = partial(device._host.allreduce, source=source, target=out, op=op, finish=plus_one)
        device._start("allreduce", start).wait()
        assert np.array_equal(out, comm.allreduce(x, op) + 1)


@pytest.mark.parametrize("dtype", ["bool", "int16", "complex64", ml_dtypes.float8_e4m3])
def test_dtypes_it_has_no_sums_of(device, dtype):
    x = np.ones(4, dtype)
    with pytest.raises(TypeError, match="NCCL cannot reduce dtype"):
        device._start("allreduce", lambda call: device._host.allreduce(call, x, x, "sum")).wait()
