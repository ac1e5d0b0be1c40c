"""send, recv and sendrecv."""

import ml_dtypes
import numpy as np
import pytest

from hpcpar.schedule import point_to_point

pytestmark = pytest.mark.mpi


def message(source, tag, count=100, dtype=np.float32):
    return (np.arange(count) % 50 + 10 * source + tag).astype(dtype)


@pytest.mark.parametrize("count", [0, 1, 1009, 700_001])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.complex128, np.int16])
def test_around_the_ring(comm, count, dtype):
    after, before = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    out = np.empty(count, dtype)
    assert comm.sendrecv(message(comm.rank, 0, count, dtype), after, out, before) is out
    assert np.array_equal(out, message(before, 0, count, dtype))


def test_sendrecv_of_two_dtypes(comm):
    """What is sent and what is received need not be alike."""
    after, before = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    for rank in range(comm.size):
        x = np.full(3 + comm.rank, comm.rank, np.float64 if comm.rank == rank else np.int16)
        out = np.empty(3 + before, np.float64 if before == rank else np.int16)
        comm.sendrecv(x, after, out, before)
        assert np.all(out == before)


@pytest.mark.mpi(min_size=2)
def test_tags_are_met_in_any_order(comm):
    if comm.rank == 0:
        requests = [comm.isend(message(0, tag), 1, tag) for tag in range(5)]
        for request in reversed(requests):
            request.wait()
    elif comm.rank == 1:
        for tag in (3, 0, 4, 1, 2):
            out = comm.recv(np.empty(100, np.float32), 0, tag)
            assert np.array_equal(out, message(0, tag))


@pytest.mark.mpi(min_size=2)
def test_one_tag_is_met_in_order(comm):
    """Long and short messages of one tag do not overtake each other."""
    counts = [600_000, 3, 300_000, 0, 5]
    if comm.rank == 0:
        requests = [comm.isend(message(0, i, n), 1) for i, n in enumerate(counts)]
        [request.wait() for request in requests]
    elif comm.rank == 1:
        outs = [np.empty(n, np.float32) for n in counts]
        requests = [comm.irecv(out, 0) for out in outs]
        [request.wait() for request in reversed(requests)]
        for i, (n, out) in enumerate(zip(counts, outs, strict=True)):
            assert np.array_equal(out, message(0, i, n))


def test_to_oneself(comm):
    sent = comm.isend(message(7, 7), comm.rank)
    assert np.array_equal(comm.recv(np.empty(100, np.float32), comm.rank), message(7, 7))
    sent.wait()


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(("sent", "expected"), [(3, 5), (5, 3), (0, 2)])
def test_a_message_of_another_length(unchecked, sent, expected):
    if unchecked.rank == 0:
        unchecked.send(np.ones(sent, np.float32), 1)
    elif unchecked.rank == 1:
        with pytest.raises(ValueError, match=f"rank 0 sent .* where {4 * expected} bytes were"):
            unchecked.recv(np.empty(expected, np.float32), 0)


@pytest.mark.mpi(min_size=2)
def test_a_pipeline_passes_pieces_on(comm):
    """From the first rank through all to the last, a hop starting before the last piece is in."""
    message, last = np.arange(2_000_003, dtype=np.uint8), comm.size - 1
    x = message.copy() if comm.rank == 0 else np.zeros_like(message)
    before, after, segment = comm.rank - 1, comm.rank + 1, 1 << 18
    if comm.rank == 0:
        steps = point_to_point.send(after, len(x), segment=segment)
    elif comm.rank == last:
        steps = point_to_point.receive(before, len(x), segment=segment)
    else:
        steps = point_to_point.relay(before, after, len(x), segment=segment)
    comm.run(steps, {"x" if comm.rank == 0 else "out": x}, name="pipeline")
    assert np.array_equal(x, message)
