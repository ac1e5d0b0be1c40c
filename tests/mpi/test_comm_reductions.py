"""allreduce, reduce and reduce_scatter against NumPy, for every dtype."""

import ml_dtypes
import numpy as np
import pytest

from hpcpar.comm import Communicator
from hpcpar.comm.allreduce import REMOTE_BYTES

pytestmark = pytest.mark.mpi

FLOATS = [ml_dtypes.bfloat16, np.float16, np.float32, np.float64]
DTYPES = [*FLOATS, np.complex64, np.complex128, np.int8, np.int32, np.int64, np.uint16, np.bool_]
UFUNCS = {"sum": np.add, "max": np.maximum, "min": np.minimum}


def brought(rank, count, dtype):
    """What rank `rank` brings: everybody can compute it."""
    random = np.random.default_rng([rank, count])
    values = random.standard_normal(count) * 3
    if np.dtype(dtype).kind == "c":
        return (values + 1j * random.standard_normal(count)).astype(dtype)
    return np.abs(values).astype(dtype) if np.dtype(dtype).kind in "bu" else values.astype(dtype)


def tree(parts, op="sum"):
    """The reduction in tree order: the bits that every algorithm but ring and mpi has.

    16-bit floating-point numbers are added in float32, and rounded at the end.
    """
    dtype = parts[0].dtype
    if dtype.name in ("float16", "bfloat16"):
        parts = [part.astype(np.float32) for part in parts]
    while len(parts) > 1:
        pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
        parts = [UFUNCS[op](*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return parts[0].astype(dtype)


def bits(array):
    return array.tobytes()


@pytest.mark.parametrize("count", [0, 1, 2, 7, 1009, 70_003])
@pytest.mark.parametrize("algorithm", ["auto", "halving", "direct"])
@pytest.mark.parametrize("in_place", [False, True])
def test_allreduce_has_the_bits_of_the_tree(comm, count, algorithm, in_place):
    expected = tree([brought(rank, count, np.float32) for rank in range(comm.size)])
    x = brought(comm.rank, count, np.float32)
    result = comm.allreduce(x, out=x if in_place else None, algorithm=algorithm)
    assert bits(result) == bits(expected)
    assert (result is x) == in_place


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.complex128, ml_dtypes.bfloat16])
@pytest.mark.parametrize("count", [0, 1, 1009, 300_007])
@pytest.mark.parametrize("in_place", [False, True])
def test_allreduce_through_the_kernel(comm, count, dtype, in_place):
    expected = tree([brought(rank, count, dtype) for rank in range(comm.size)])
    x = brought(comm.rank, count, dtype)
    result = comm.allreduce(x, out=x if in_place else None, algorithm="remote")
    assert bits(result) == bits(expected)
    assert in_place or bits(x) == bits(brought(comm.rank, count, dtype))


@pytest.mark.mpi(min_size=2)
def test_large_ones_go_through_the_kernel_in_place(comm):
    count = REMOTE_BYTES // 4
    with Communicator(comm.mpi, device="cpu", timeout=20) as plain:
        x = brought(comm.rank, count, np.float32)
        expected = tree([brought(rank, count, np.float32) for rank in range(comm.size)])
        requests = [plain.iallreduce(y, out=y) for y in (x, x.copy(), x.copy())]
        assert all(bits(request.wait()) == bits(expected) for request in requests)


@pytest.mark.mpi(min_size=2)
def test_a_system_that_forbids_it(comm, monkeypatch):
    """One rank that may not is enough; then nobody tries, and messages do it."""
    if comm.rank == comm.size - 1:
        monkeypatch.setattr("hpcpar.comm.remote._READ", None)
    with Communicator(comm.mpi, device="cpu", timeout=20) as other:
        assert other._reach is None
        x = np.full(REMOTE_BYTES // 4, 1, np.float32)
        assert (other.allreduce(x, out=x) == comm.size).all()
        with pytest.raises(ValueError, match="may read each other's memory"):
            other.allreduce(x, algorithm="remote")


def test_allreduce_of_many_segments(comm, monkeypatch):
    """Longer than what travels in one message."""
    monkeypatch.setattr("hpcpar.comm.running.SEGMENT_BYTES", 4096)
    count = 70_003
    expected = tree([brought(rank, count, np.float32) for rank in range(comm.size)])
    for algorithm in ("auto", "direct", "halving"):
        x = brought(comm.rank, count, np.float32)
        assert bits(comm.allreduce(x, algorithm=algorithm)) == bits(expected)
        assert bits(comm.allreduce(x, out=x, algorithm=algorithm)) == bits(expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", ["sum", "max", "min"])
def test_allreduce_of_every_dtype(comm, dtype, op):
    if op != "sum" and np.dtype(dtype).kind == "c":
        with pytest.raises(TypeError, match="complex"):
            comm.allreduce(np.zeros(3, dtype), op)
        return
    parts = [brought(rank, 77, dtype).reshape(7, 11) for rank in range(comm.size)]
    result = comm.allreduce(parts[comm.rank], op)
    assert result.dtype == dtype and result.shape == (7, 11)
    assert bits(result) == bits(tree(parts, op))


@pytest.mark.parametrize("dtype", DTYPES)
def test_reduce_scatter_where_one_rank_gets_everything(comm, dtype):
    """The result has the shape of what is added, and 16-bit sums land in memory apart from it."""
    parts = [brought(rank, 33, dtype).reshape(1, 33) for rank in range(comm.size)]
    result = comm.reduce_scatter(parts[comm.rank])
    assert bits(result) == (bits(tree(parts)) if comm.rank == 0 else b"")


@pytest.mark.parametrize("dtype", [*FLOATS, np.complex64])
def test_mean(comm, dtype):
    parts = [brought(rank, 50, dtype) for rank in range(comm.size)]
    if np.dtype(dtype).itemsize == 2:  # added and divided in float32, rounded once
        wide = [part.astype(np.float32) for part in parts]
        expected = (tree(wide) / np.float32(comm.size)).astype(dtype)
    else:
        expected = np.divide(tree(parts), np.dtype(dtype).type(comm.size))
    assert bits(comm.allreduce(parts[comm.rank], "mean")) == bits(expected)
    rows = np.array_split(expected, comm.size)
    assert bits(comm.reduce_scatter(parts[comm.rank], "mean")) == bits(rows[comm.rank])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128, np.int32])
@pytest.mark.parametrize("algorithm", ["ring", "mpi"])
@pytest.mark.parametrize("count", [0, 1, 1009, 70_003])
def test_algorithms_of_another_order(comm, dtype, algorithm, count):
    x = brought(comm.rank, count, dtype)
    expected = sum(brought(rank, count, dtype).astype(complex) for rank in range(comm.size))
    result = comm.allreduce(x, algorithm=algorithm)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)
    assert comm.allreduce(x, out=x, algorithm=algorithm) is x
    assert bits(x) == bits(result)


@pytest.mark.parametrize("op", ["max", "mean"])
@pytest.mark.parametrize("algorithm", ["ring", "mpi"])
def test_other_ops_by_other_algorithms(comm, op, algorithm):
    table = np.array([brought(rank, 40, np.float64) for rank in range(comm.size)])
    result = comm.allreduce(table[comm.rank], op, algorithm=algorithm)
    np.testing.assert_allclose(result, getattr(table, op)(axis=0), rtol=1e-12)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.bool_])
def test_mpi_has_not_all_dtypes(comm, dtype):
    with pytest.raises(TypeError, match="MPI cannot reduce dtype"):
        comm.allreduce(np.zeros(3, dtype), algorithm="mpi")


def test_nan_wins(comm):
    x = np.array([np.nan if comm.rank == comm.size - 1 else 1.0])
    assert np.isnan(comm.allreduce(x, "max")[0]) and np.isnan(comm.allreduce(x, "min")[0])


@pytest.mark.parametrize("count", [0, 1, 1009, 300_007])
def test_reduce_to_every_root(comm, count):
    expected = tree([brought(rank, count, np.float32) for rank in range(comm.size)])
    for root in range(comm.size):
        x = brought(comm.rank, count, np.float32)
        result = comm.reduce(x, root)
        assert bits(x) == bits(brought(comm.rank, count, np.float32))
        if comm.rank == root:
            assert bits(result) == bits(expected)
            assert comm.reduce(x, root, out=x) is x and bits(x) == bits(expected)
        else:
            assert result is None and comm.reduce(x, root) is None


@pytest.mark.parametrize("shape", [(0,), (1,), (5, 3), (17, 1), (100, 70, 9)])
def test_reduce_scatter(comm, shape):
    count = int(np.prod(shape))
    parts = [brought(rank, count, np.float32).reshape(shape) for rank in range(comm.size)]
    expected = np.array_split(tree(parts), comm.size)[comm.rank]
    result = comm.reduce_scatter(parts[comm.rank])
    assert result.shape == expected.shape and bits(result) == bits(expected)
    out = np.empty_like(expected)
    assert comm.reduce_scatter(parts[comm.rank], out=out) is out and bits(out) == bits(expected)


@pytest.mark.parametrize("shape", [(), (1, 1, 1), (3, 0, 2)])
def test_any_shape(comm, shape):
    result = comm.allreduce(np.full(shape, 2.0))
    assert result.shape == shape and np.all(result == 2.0 * comm.size)


def test_other_libraries_through_dlpack(comm):
    class Foreign:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **options):
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    x = Foreign(np.ones(5, np.float32))
    assert comm.allreduce(x, out=x) is x
    assert np.all(x.array == comm.size)
