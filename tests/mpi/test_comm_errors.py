"""What is refused, what is said to all, and what happens when a rank does not come."""

import re
import time
from pathlib import Path

import numpy as np
import pytest

from hpcpar.comm import Communicator, agree, arrival, together
from hpcpar.comm.running import SEGMENT_BYTES
from hpcpar.errors import HangError, UserError

pytestmark = pytest.mark.mpi

GRID = np.zeros((4, 6))


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda c: c.allreduce(GRID[:, ::2]), ValueError, "x is not C-contiguous"),
        (lambda c: c.allreduce(GRID.T), ValueError, "x is not C-contiguous"),
        (lambda c: c.allreduce(np.array([None])), TypeError, "x has dtype object"),
        (lambda c: c.bcast(np.zeros(2, "i4,f8")), TypeError, "only arrays of numbers travel"),
        (lambda c: c.bcast(np.zeros(2, "V8")), TypeError, "only arrays of numbers travel"),
        (lambda c: c.gather(np.array(["a"])), TypeError, "only arrays of numbers travel"),
        (lambda c: c.gather(np.zeros(2, ">f8")), TypeError, "native byte order"),
        (lambda c: c.allreduce([1, 2]), TypeError, "list"),
        (lambda c: c.allreduce(GRID, out=np.zeros(24)), ValueError, r"out is float64\[24\]"),
        (lambda c: c.allreduce(GRID, out=GRID.astype("f4")), ValueError, r"out is float32"),
        (lambda c: c.allreduce(GRID[:2], out=GRID[1:3]), ValueError, "overlap in part"),
        (lambda c: c.allreduce(GRID, "prod"), ValueError, "sum, mean, max, min"),
        (lambda c: c.allreduce(GRID.astype(int), "mean"), TypeError, "no mean in dtype int64"),
        (lambda c: c.allreduce(GRID, algorithm="best"), ValueError, "auto, ring, halving"),
        (lambda c: c.bcast(GRID, root=c.size), ValueError, "root is .*the ranks are 0 to"),
        (lambda c: c.reduce(GRID, root=-1), ValueError, "root is -1"),
        (lambda c: c.send(GRID, c.size), ValueError, "dest is"),
        (lambda c: c.recv(GRID, 0.0), ValueError, "source is 0.0"),
        (lambda c: c.send(GRID, 0, tag=-3), ValueError, "tag is -3"),
        (lambda c: c.sendrecv(GRID, 0, GRID, 0), ValueError, "same memory"),
        (lambda c: c.reduce_scatter(np.zeros(())), ValueError, "no axis"),
        (lambda c: c.run([], {}), ValueError, "no buffers"),
        (
            lambda c: Communicator(c.mpi, backend="ucx"),
            ValueError,
            "must be one of auto, mpi, staged, nccl",
        ),
        (lambda c: Communicator(c.mpi, timeout=0), ValueError, "timeout is 0"),
        (lambda c: Communicator("world"), TypeError, "mpi4py"),  # type: ignore[arg-type]
        (lambda c: Communicator(c.mpi, "cpu", "staged"), UserError, "staged is for GPUs"),
        (lambda c: Communicator(c.mpi, "cpu", "nccl"), UserError, "nccl is for GPUs"),
        (lambda c: c.allreduce(GRID, algorithm="nccl"), ValueError, "takes GPU arrays"),
    ],
)
def test_refused_at_once_in_one_sentence(unchecked, call, kind, words):
    with pytest.raises(kind, match=words) as error:
        call(unchecked)
    assert "\n" not in str(error.value)


def test_read_only_results_are_refused(unchecked):
    x = np.zeros(3)
    x.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        unchecked.allreduce(np.zeros(3), out=x)
    with pytest.raises(ValueError, match="read-only"):
        unchecked.recv(x, 0)
    assert np.array_equal(unchecked.allreduce(x), x)  # to read it is enough


def test_scatter_of_nothing(comm):
    with pytest.raises(ValueError, match="None on the root"):
        comm.scatter(None, root=comm.rank)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", ["gather", "allgather", "alltoall"])
@pytest.mark.parametrize("kind", ["dtype", "width", "axes"])
def test_arrays_that_do_not_fit_together(unchecked, name, kind):
    """The same sentence on every rank."""
    last = unchecked.rank == unchecked.size - 1
    x = np.zeros((2, 5 if last and kind == "width" else 3), np.float32)
    x = x.astype(np.float64) if last and kind == "dtype" else x
    x = np.zeros((), np.float32) if last and kind == "axes" else x
    with pytest.raises(ValueError, match=f"{name}: .*rank {unchecked.size - 1} has"):
        getattr(unchecked, name)(x)
    unchecked.barrier()


def end(other):
    """Close after a hang: at once where it was found; elsewhere the others do not come."""
    if other._engine.broken:
        other.close()
    else:
        with pytest.raises(HangError, match="close"):
            other.close()


@pytest.mark.mpi(min_size=2)
def test_a_rank_that_does_not_come(comm):
    """Those who wait say where they are and for whom, within the limit; nobody is left hanging."""
    other = Communicator(comm.mpi, timeout=0.3)
    other.barrier()
    absent = comm.size - 1
    if comm.rank != absent:
        start = time.monotonic()
        with pytest.raises(HangError) as error:
            other.allreduce(np.ones(1000))  # the line
        assert 0.2 < time.monotonic() - start < 10
        message = str(error.value)
        assert f"rank {comm.rank} of {comm.size}" in message
        assert "0.3 s" in message and "allreduce #2" in message
        lines = Path(__file__).read_text().splitlines()
        line = next(n for n, text in enumerate(lines, 1) if text.endswith("# the line"))
        assert f"{Path(__file__).name}:{line} " in message
        assert f"rank {absent} never entered allreduce #2" in message
        if comm.size == 2:
            assert f"for rank {absent}: rank {absent}" in message
        with pytest.raises(HangError, match="cannot be used after"):
            other.barrier()
    comm.barrier()
    end(other)


@pytest.mark.mpi(min_size=2)
def test_together_says_where_too(comm):
    other = Communicator(comm.mpi, timeout=0.3)
    if comm.rank == 0:
        with pytest.raises(HangError, match=rf"at {re.escape(__file__)}:\d+ for"), together(other):
            pass
    comm.barrier()
    end(other)


@pytest.mark.mpi(min_size=2)
def test_the_message_names_exactly_the_missing(comm):
    other = Communicator(comm.mpi, timeout=0.3)
    if comm.rank == 0:
        ready = other.irecv(np.empty(1), 1, tag=1)
        ready.wait()
        hung = other.irecv(np.empty(1), comm.size - 1, tag=2)
        words = rf"in recv #2 \(tag 2\) at .* for rank {comm.size - 1}: "
        with pytest.raises(HangError, match=words):
            hung.wait()
        with pytest.raises(HangError):
            hung.wait()
    elif comm.rank == 1:
        other.send(np.ones(1), 0, tag=1)
    comm.barrier()
    end(other)


@pytest.mark.mpi(min_size=2)
def test_slow_is_not_hung(comm):
    """The limit is on time without progress: eight pieces of one message, 0.2 s apart."""
    piece = np.ones(SEGMENT_BYTES, np.uint8)
    with Communicator(comm.mpi, timeout=1) as other:
        if comm.rank == 0:
            for _ in range(8):
                time.sleep(0.2)
                other._message.Send(piece, 1)  # as `send` would, if it were as slow
            other._message.Send(piece[:0], 1)
        elif comm.rank == 1:
            start = time.monotonic()
            assert other.recv(np.zeros(8 * len(piece), np.uint8), 0).all()
            assert time.monotonic() - start > other.timeout
        comm.barrier()


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("sent", [0, 3, SEGMENT_BYTES, 3 * SEGMENT_BYTES, 3 * SEGMENT_BYTES + 1])
@pytest.mark.parametrize("wanted", [1, 4, SEGMENT_BYTES - 1, 2 * SEGMENT_BYTES])
def test_a_message_of_another_length(comm, sent, wanted):
    """It is told, and nothing is written behind the array: whole segments are no exception."""
    other = Communicator(comm.mpi, timeout=20)
    if comm.rank == 0:
        other.isend(np.ones(sent, np.uint8), 1)
    elif comm.rank == 1:
        memory = np.zeros(wanted + 4 * SEGMENT_BYTES, np.uint8)
        with pytest.raises(ValueError, match=r"rank 0 sent \d+ bytes where \d+ bytes were"):
            other.recv(memory[:wanted], 0)
        assert not memory[wanted:].any()
    comm.barrier()  # `other` is left: messages may be, too


@pytest.mark.mpi(min_size=2)
def test_split_waits_no_longer_than_anything_else(comm):
    other = Communicator(comm.mpi, timeout=0.3)
    absent = comm.size - 1
    if comm.rank != absent:
        with pytest.raises(HangError, match=f"rank {absent} never entered split #1"):
            other.split(0)
    comm.barrier()
    end(other)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("absent", [0, -1])
def test_making_a_communicator_waits_no_longer_than_anything_else(comm, absent, monkeypatch):
    absent %= comm.size
    if absent == 0:
        monkeypatch.setattr(arrival, "_ANSWER", 0.5)
    twin = comm.mpi.Dup()
    if comm.rank != absent:
        start = time.monotonic()
        missing = "rank 0, which counts .*, has not answered" if absent == 0 else "has not come"
        words = rf"0.3 s at {re.escape(__file__)}:\d+ to make .*{missing}"
        with pytest.raises(HangError, match=words):
            Communicator(twin, timeout=0.3)
        assert 0.2 < time.monotonic() - start < 10
    comm.barrier()  # `twin` is left: messages may be, too


@pytest.mark.mpi(min_size=2)
def test_allgather_into_something_too_small_on_one_rank(unchecked):
    """The same sentence on every rank, before anything has moved."""
    out = np.zeros((unchecked.size - (unchecked.rank == 1), 3))
    words = f"out of rank 1 has {unchecked.size - 1} rows, the result has {unchecked.size}"
    with pytest.raises(ValueError, match=words):
        unchecked.allgather(np.ones((1, 3)), out)
    unchecked.barrier()


def test_agree(comm):
    words = f"trouble on {comm.rank}" if comm.rank % 2 else None
    expected = [f"trouble on {rank}" if rank % 2 else None for rank in range(comm.size)]
    assert agree(comm, words) == expected
    assert agree(comm, None) == [None] * comm.size
    assert agree(comm, "") == [""] * comm.size


def test_together_all_is_well(comm):
    with together(comm):
        pass


def test_together_everybody_fails(comm):
    with pytest.raises(UserError, match=r"^no such file: naïve$"), together(comm):
        raise UserError("no such file: naïve")


@pytest.mark.mpi(min_size=2)
def test_together_some_fail(comm):
    with pytest.raises(UserError, match=r"^rank 1: of no use 1$"), together(comm):
        if comm.rank:
            raise UserError(f"of no use {comm.rank}")
    if comm.size == 2:
        return
    with pytest.raises(UserError, match=r"^rank 1: "), together(comm):
        if comm.rank in (1, 2):
            raise UserError("of no use")


@pytest.mark.mpi(min_size=2)
def test_together_other_errors_keep_their_place(comm):
    kind = ZeroDivisionError if comm.rank == 1 else RuntimeError
    words = "by zero" if comm.rank == 1 else "rank 1: ZeroDivisionError: .*by zero"
    with pytest.raises(kind, match=words), together(comm):
        assert comm.rank != 1 or 1 / 0


@pytest.mark.mpi(min_size=2)
def test_a_device_that_one_rank_lacks(comm, monkeypatch):
    """All ranks say so at once: the others would wait for the one that gave up."""
    last = comm.size - 1

    def resolve(wish, local_rank):
        if comm.rank == last:
            raise UserError("this node has no GPU")
        return comm.device

    monkeypatch.setattr("hpcpar.comm.core.Device.resolve", resolve)
    with pytest.raises(UserError, match=f"rank {last}: this node has no GPU"):
        Communicator(comm.mpi)
