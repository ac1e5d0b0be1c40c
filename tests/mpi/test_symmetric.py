"""Symmetric arrays: shared by the ranks of a node, read in place, and gone with their processes."""

import contextlib
import gc
import os

import ml_dtypes
import numpy as np
import pytest

from hpcpar.comm import Communicator
from hpcpar.comm import allreduce as limits
from hpcpar.comm.shared_memory import HostMemory

pytestmark = pytest.mark.mpi

DTYPES = ["f4", "f8", "f2", "i4", "u1", "c8", "c16", ml_dtypes.bfloat16]


def everybodys(comm, count, dtype):
    """What all ranks bring, on every rank: small whole numbers, exact in every dtype."""
    values = np.random.default_rng(count).integers(0, 7, (comm.size, count))
    return values.astype(dtype)


def test_peers_are_seen_where_they_lie(comm):
    s = comm.symmetric((3, 5), np.int64)
    assert s.shape == (3, 5) and s.dtype == np.int64 and len(s) == 3 and s.complete
    assert not s.local.any()
    s.local[...] = comm.rank
    s.sync()
    for rank in range(comm.size):
        assert (s.peer(rank) == rank).all()
    s.sync()
    s.peer((comm.rank + 1) % comm.size)[1, 2] = 100 + comm.rank
    s.sync()
    assert s.local[1, 2] == 100 + (comm.rank - 1) % comm.size
    part = s[1:3]
    assert part.shape == (2, 5) and part.peer(comm.rank)[0, 2] == s.local[1, 2]
    assert s.reshape(15).peer(0).shape == (15,)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 7, 1000, 70_001])
def test_allreduce_in_place(comm, count, dtype):
    values = everybodys(comm, count, dtype)
    s, t = comm.symmetric(count, dtype), comm.symmetric(count, dtype)
    s.local[...] = values[comm.rank]
    expected = values.sum(axis=0, dtype=values.dtype)
    new = comm.allreduce(s)
    assert type(new) is np.ndarray and np.array_equal(new, expected)
    assert np.array_equal(s.local, values[comm.rank])
    assert comm.allreduce(s, out=t) is t
    assert np.array_equal(t.local, expected)
    assert np.array_equal(s.local, values[comm.rank])
    assert comm.allreduce(s, out=s) is s
    assert np.array_equal(s.local, expected)


@pytest.mark.parametrize("op", ["mean", "max", "min"])
def test_other_reductions(comm, op):
    values = np.random.default_rng(3).standard_normal((comm.size, 50_000))
    s = comm.symmetric(50_000, np.float64)
    s.local[...] = values[comm.rank]
    expected = comm.allreduce(values[comm.rank].copy(), op)
    comm.allreduce(s, op, out=s)
    assert np.array_equal(s.local, expected)


def test_the_bits_of_ordinary_arrays(comm):
    """The tree over the ranks, in place or through messages, in blocks or at once."""
    for count in (100, 5_000, 200_003):
        values = np.random.default_rng(count).standard_normal((comm.size, count)).astype("f4")
        s = comm.symmetric(count)
        s.local[...] = values[comm.rank]
        expected = comm.allreduce(values[comm.rank].copy())
        comm.allreduce(s, out=s)
        assert s.local.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("count", [100, 60_000])
def test_sixteen_bits_are_summed_in_float32(comm, count, dtype):
    """In place as through messages: rounded once, not at every addition."""
    values = np.random.default_rng(count).standard_normal((comm.size, count)).astype(dtype)
    s = comm.symmetric(count, dtype)
    s.local[...] = values[comm.rank]
    expected = comm.allreduce(values[comm.rank].copy())
    exact = values.astype(np.float64).sum(axis=0)
    error = np.abs(expected.astype(np.float64) - exact)
    assert (error <= np.abs(exact) * float(ml_dtypes.finfo(dtype).eps) / 2 * 1.01 + 1e-5).all()
    comm.allreduce(s, out=s)
    assert s.local.tobytes() == expected.tobytes()


def test_many_under_way_at_once(comm):
    arrays = [comm.symmetric(9_000 + n) for n in range(4)]
    for n, s in enumerate(arrays):
        s.local[...] = comm.rank + n
    ordinary = np.full(5000, 1.0)
    requests = [comm.iallreduce(s, out=s) for s in arrays]
    requests.insert(2, comm.iallreduce(ordinary, out=ordinary))
    for request in reversed(requests):
        request.wait()
    for n, s in enumerate(arrays):
        assert (s.local == sum(rank + n for rank in range(comm.size))).all()
    assert (ordinary == comm.size).all()


def test_every_collective_takes_them(comm):
    s = comm.symmetric((comm.size, 2), np.int32)
    s.local[...] = comm.rank
    assert np.array_equal(
        comm.allgather(s), np.repeat(np.arange(comm.size), 2 * comm.size).reshape(-1, 2)
    )
    assert (comm.reduce_scatter(s) == sum(range(comm.size))).all()
    assert (comm.alltoall(s)[:, 0] == np.arange(comm.size)).all()
    last = comm.size - 1
    assert comm.bcast(s, root=last) is s
    assert (s.local == last).all()
    gathered = comm.gather(s)
    assert gathered is None if comm.rank else len(gathered) == comm.size**2


def test_planned_bytes_are_counted(comm):
    count = 1 << 17
    s = comm.symmetric(count)
    before = comm.ledger["allreduce"].bytes
    comm.allreduce(s, out=s)
    mine = len(np.array_split(np.arange(count), comm.size)[comm.rank])
    assert comm.ledger["allreduce"].bytes - before == 2 * (comm.size - 1) * mine * 4


def test_bcast_and_allgather_send_nothing(comm):
    """Everybody copies from where it lies; the bytes are counted on the side that reads."""
    count = 50_001
    with Communicator(comm.mpi, device="cpu", timeout=20) as other:
        s = other.symmetric(count)
        s.local[...] = other.rank
        before = other.ledger["allgather"].bytes  # what making the array took
        joined = other.allgather(s)
        assert np.array_equal(joined, np.repeat(np.arange(other.size), count))
        headers = 128 * (other.size - 1)
        moved = other.ledger["allgather"].bytes - before
        assert moved == headers + 4 * count * (other.size - 1)
        last = other.size - 1
        other.bcast(s, root=last)
        assert (s.local == last).all()
        assert other.ledger["bcast"].bytes == (0 if other.rank == last else 4 * count)


def test_one_shot_and_two_phases_agree(comm, monkeypatch):
    values = np.random.default_rng(5).standard_normal((comm.size, 20_000))
    results = []
    for limit in (0, 1 << 30):
        monkeypatch.setattr(limits, "ONE_SHOT_BYTES", limit)
        s = comm.symmetric(20_000, np.float64)
        s.local[...] = values[comm.rank]
        comm.allreduce(s, out=s)
        results.append(s.local.tobytes())
    assert results[0] == results[1]


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("kind", ["array", "part", "in place", "op"])
def test_other_arrays_on_one_rank(comm, kind):
    """Told to all before anything is read: no wrong number, also where nothing is compared."""
    with Communicator(comm.mpi, device="cpu", timeout=20) as other:
        one, two = other.symmetric(20_000), other.symmetric(20_000)
        x, out, op = one, one, "sum"
        if other.rank == other.size - 1:
            x = two if kind == "array" else one
            x = one[1:] if kind == "part" else x
            out, op = two if kind == "in place" else x, "max" if kind == "op" else op
        elif kind == "part":
            x = out = one[:-1]
        with pytest.raises(ValueError, match="the ranks' calls do not fit together"):
            other.allreduce(x, op, out)
        assert other.allreduce(np.ones(1))[0] == other.size


@pytest.mark.parametrize(
    ("shape", "dtype", "kind", "words"),
    [
        (3, "O", TypeError, "only arrays of numbers"),
        (3, "i4,f8", TypeError, "only arrays of numbers"),
        ((2, -1), "f4", ValueError, "not negative"),
        (1 << 50, "f8", MemoryError, "rank 0: .* cannot be had .*are left"),
    ],
)
def test_refused(comm, shape, dtype, kind, words):
    with pytest.raises(kind, match=words):
        comm.symmetric(shape, dtype)
    comm.barrier()


@pytest.mark.mpi(min_size=2)
def test_shapes_that_differ(unchecked):
    last = unchecked.size - 1
    with pytest.raises(
        ValueError, match=rf"rank 0 asks for float32\[3\], rank {last} for float32\[4\]"
    ):
        unchecked.symmetric(3 + (unchecked.rank == last))


@pytest.mark.mpi(min_size=2)
def test_a_rank_that_gets_no_memory(comm, monkeypatch):
    """All ranks say so; nobody waits for the one without."""
    last = comm.size - 1

    def allocate(self, size):
        raise OSError("no space left")

    if comm.rank == last:
        monkeypatch.setattr(HostMemory, "allocate", allocate)
    with pytest.raises(MemoryError, match=f"rank {last}: .*no space left"):
        comm.symmetric(10)
    comm.barrier()


def test_parts_must_be_contiguous(comm):
    s = comm.symmetric((4, 6))
    with pytest.raises(ValueError, match="C-contiguous"):
        s[:, 1:3]
    with pytest.raises(ValueError, match="there is no rank"):
        s.peer(comm.size)


def test_symmetric_algorithm_by_name(comm):
    s = comm.symmetric(3000)
    s.local[...] = 1
    comm.allreduce(s, out=s, algorithm="symmetric")
    assert (s.local == comm.size).all()
    with pytest.raises(ValueError, match=r"takes x=comm.symmetric"):
        comm.allreduce(np.ones(3), algorithm="symmetric")


def test_no_descriptor_and_no_memory_is_kept(comm):
    """A step of a loop that forgets its arrays leaves neither open files nor mappings behind."""

    def once():
        s = comm.symmetric(1 << 16)
        comm.allreduce(s, out=s)

    once()
    comm.barrier()
    gc.collect()
    files, maps = _ours("/proc/self/fd"), _ours("/proc/self/map_files")
    for _ in range(5):
        once()
    comm.barrier()
    gc.collect()
    assert _ours("/proc/self/fd") <= files
    assert _ours("/proc/self/map_files") <= maps


def test_it_does_not_need_dev_shm(comm):
    """More than the 64 MB that containers give to /dev/shm, in use at once on the node."""
    with Communicator(comm.mpi, timeout=20) as other:
        s = other.symmetric((96 << 20) // comm.size, np.uint8)
        s.local[-1] = comm.rank
        s.sync()
        assert s.peer(comm.size - 1)[-1] == comm.size - 1
        assert not [line for line in _maps() if "/dev/shm" in line and "hpcpar" in line]
        s.sync()


def _maps():
    with open("/proc/self/maps") as maps:
        return maps.readlines()


def _ours(folder):
    """How many of a process's files, or mappings, are memory of symmetric arrays."""
    count = 0
    for name in os.listdir(folder):
        with contextlib.suppress(OSError):
            count += "memfd:hpcpar" in os.readlink(f"{folder}/{name}")
    return count


@pytest.mark.mpi(min_size=3)
def test_in_another_communicator_it_is_an_ordinary_array(comm):
    """Rank 1 of a part is another process than rank 1 of all."""
    s = comm.symmetric(comm.size)
    s.local[...] = comm.rank
    members = range(comm.rank % 2, comm.size, 2)
    with comm.split(comm.rank % 2) as part:
        assert np.all(part.allreduce(s) == sum(members))
        assert np.all(part.reduce_scatter(s) == sum(members))
        part.allreduce(s, out=s)
    assert np.all(s.local == sum(members))
