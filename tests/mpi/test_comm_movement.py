"""bcast, gather, scatter, allgather, alltoall and barrier against NumPy."""

import ml_dtypes
import numpy as np
import pytest

pytestmark = pytest.mark.mpi

DTYPES = [ml_dtypes.bfloat16, np.float16, np.float64, np.complex64, np.int64, np.uint8, np.bool_]
LENGTHS = [0, 1, 7, 1009, 400_009]


def rows(rank, length, dtype=np.float32, width=3):
    random = np.random.default_rng([rank, length])
    return random.integers(0, 100, (length, width)).astype(dtype)


def uneven(size, length):
    """Lengths that differ from rank to rank, some of them 0."""
    return [(length * (rank + 1)) // size if rank % 3 != 1 else 0 for rank in range(size)]


@pytest.mark.parametrize("length", LENGTHS)
def test_bcast_from_every_root(comm, length):
    for root in range(comm.size):
        x = rows(comm.rank, length)
        assert comm.bcast(x, root) is x
        assert np.array_equal(x, rows(root, length))


@pytest.mark.parametrize("length", LENGTHS)
def test_gather(comm, length):
    lengths = uneven(comm.size, length)
    expected = np.concatenate([rows(rank, n) for rank, n in enumerate(lengths)])
    for root in {0, comm.size - 1}:
        result = comm.gather(rows(comm.rank, lengths[comm.rank]), root)
        assert result is None if comm.rank != root else np.array_equal(result, expected)


@pytest.mark.parametrize("length", LENGTHS)
def test_allgather(comm, length):
    lengths = uneven(comm.size, length)
    expected = np.concatenate([rows(rank, n) for rank, n in enumerate(lengths)])
    x = rows(comm.rank, lengths[comm.rank])
    assert np.array_equal(comm.allgather(x), expected)
    out = np.empty_like(expected)
    assert comm.allgather(x, out=out) is out and np.array_equal(out, expected)


@pytest.mark.parametrize("length", LENGTHS)
def test_scatter(comm, length):
    for root in {0, comm.size - 1}:
        whole = rows(99, length)
        part = comm.scatter(whole if comm.rank == root else None, root)
        expected = np.array_split(whole, comm.size)[comm.rank]
        assert part.dtype == np.float32 and part.shape == expected.shape
        assert np.array_equal(part, expected)


@pytest.mark.parametrize("length", LENGTHS)
def test_alltoall(comm, length):
    parts = [
        np.array_split(rows(rank, n), comm.size)[comm.rank]
        for rank, n in enumerate(uneven(comm.size, length))
    ]
    result = comm.alltoall(rows(comm.rank, uneven(comm.size, length)[comm.rank]))
    assert np.array_equal(result, np.concatenate(parts))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_travels(comm, dtype):
    whole = np.concatenate([rows(rank, 5, dtype) for rank in range(comm.size)])
    x = rows(comm.rank, 5, dtype)
    gathered = comm.allgather(x)
    part = comm.scatter(whole if comm.rank == 0 else None)
    turned = comm.alltoall(np.repeat(x[:1], comm.size, axis=0))
    assert gathered.dtype == part.dtype == turned.dtype == dtype
    assert np.array_equal(gathered, whole)
    assert np.array_equal(part, x)
    assert np.array_equal(turned, whole[::5])
    y = x.copy()
    assert np.array_equal(comm.bcast(y), rows(0, 5, dtype))


def test_barrier_holds_everybody(comm):
    """The late rank starts only when all others have seen that they are not through."""
    for late in range(comm.size):
        if comm.rank == late:
            for other in set(range(comm.size)) - {late}:
                comm.recv(np.empty(0), other)
            comm.barrier()
        else:
            request = comm.ibarrier()
            assert not any(request.test() for _ in range(50))
            comm.send(np.empty(0), late)
            request.wait()
