"""Corners where calls meet: remembered plans and bindings, interruptions, empty arrays, the end."""

import time

import numpy as np
import pytest
from long import only_on

from hpcpar.comm import Communicator

pytestmark = pytest.mark.mpi


@pytest.fixture
def plain(comm):
    with Communicator(comm.mpi, device="cpu", timeout=20) as own:
        yield own


def test_parts_of_symmetric_arrays_that_come_and_go(plain):
    """What is remembered for an array is not taken for the next one at its address."""
    x, t = plain.symmetric(100_000), plain.symmetric((40, 100_000))
    for i in range(40):
        x.local[...] = plain.rank + i
        x.sync()
        plain.allreduce(x, out=t[i])
    x.sync()
    expected = [sum(rank + i for rank in range(plain.size)) for i in range(40)]
    assert np.array_equal(t.local[:, 0], expected) and np.array_equal(t.local[:, -1], expected)


def test_a_part_is_no_copy(comm):
    s = comm.symmetric((4, 10))
    for index in (np.arange(2), [0, 1], s.local[:, 0] == 0):
        with pytest.raises(ValueError, match="slice along axis 0"):
            s[index]
    assert s[2:2].shape == (0, 10)


@pytest.mark.mpi(min_size=2)
def test_an_interrupted_wait_is_no_success(comm):
    other = Communicator(comm.mpi, device="cpu", timeout=20)

    def interrupted(call):
        yield
        raise KeyboardInterrupt

    request = other._start("allreduce", interrupted)
    with pytest.raises(KeyboardInterrupt):
        request.wait()
    with pytest.raises(RuntimeError, match=r"allreduce #1 at .* was interrupted"):
        request.wait()
    other.close()


@pytest.mark.mpi(min_size=2)
def test_every_call_is_in_the_ledger(plain):
    x = np.ones(4)
    for _ in range(10):
        plain.allreduce(x)
    plain.iallreduce(x).wait()
    plain.allreduce(x)
    assert plain.ledger["allreduce"].calls == 12


@pytest.mark.mpi(min_size=2)
def test_an_error_in_the_arithmetic_ends_the_call(comm):
    """It raises where it happens, and nobody takes the call for one that hangs."""
    only_on(comm.size, 3, 8)  # it takes its time
    with Communicator(comm.mpi, device="cpu", timeout=0.2) as other:
        other.allreduce(np.ones(4, np.float32))
        with np.errstate(over="raise"), pytest.raises(FloatingPointError):
            other.allreduce(np.full(4, 3e38, np.float32))
        time.sleep(3)  # longer than the watchdog waits for a call
        assert (other.allreduce(np.ones(4, np.float32)) == other.size).all()


def test_nothing_is_added_in_the_same_way_by_all(plain):
    """Empty arrays: one rank waits at once, the others later."""
    empty = np.empty(0)
    for _ in range(3):
        if plain.rank:
            assert plain.iallreduce(empty).wait().shape == (0,)
        else:
            assert plain.allreduce(empty).shape == (0,)
    plain.barrier()


@pytest.mark.parametrize("count", [4, 5000])
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_mean_of_16_bits_does_not_overflow(plain, count, symmetric):
    x = np.full(count, 40_000, np.float16)
    if symmetric:
        s = plain.symmetric(count, np.float16)
        s.local[...] = x
        x = s
    for _ in range(2):
        assert (plain.allreduce(x, "mean") == 40_000).all()
    assert (plain.reduce_scatter(x, "mean") == 40_000).all()


def test_closed_by_an_error_is_closed(comm):
    with pytest.raises(KeyError), Communicator(comm.mpi, device="cpu") as other:
        other.allreduce(np.ones(4))
        raise KeyError
    with pytest.raises(ValueError, match="is closed"):
        other.allreduce(np.ones(4))


def test_an_operation_that_is_no_word(comm):
    with pytest.raises(ValueError, match=r"op is \['sum'\]"):
        comm.allreduce(np.ones(4), ["sum"])
    comm.barrier()
