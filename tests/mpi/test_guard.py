"""check=True: right programs are not accused, wrong ones leave a communicator that can be used.

What is said of wrong programs is tested in tests/system/test_wrong_programs.py.
"""

import numpy as np
import pytest
from long import only_on
from right_programs import run_right_program

from hpcpar.comm import Communicator
from hpcpar.errors import MismatchError

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize("number", range(200))
def test_right_programs_are_not_accused(comm, number):
    if number % 2:
        only_on(comm.size, 1, 2, 3, 4)
    run_right_program(comm, number)


@pytest.mark.mpi(min_size=2)
def test_a_mismatch_leaves_everything_in_order(comm):
    """What was under way before ends well, and so does what is called afterwards."""
    before = comm.iallreduce(np.ones(100_000), algorithm="ring")
    with pytest.raises(MismatchError):
        comm.bcast(np.ones(3 + comm.rank))
    after = comm.allgather(np.array([comm.rank]))
    assert np.array_equal(after, np.arange(comm.size))
    assert before.wait()[0] == comm.size


@pytest.mark.mpi(min_size=2)
def test_one_mismatch_among_many_under_way(comm):
    requests = [comm.iallreduce(np.full(3 + (i == 4) * comm.rank, 1.0)) for i in range(9)]
    for i in reversed(range(9)):
        if i == 4:
            with pytest.raises(MismatchError, match=r"float64\[3\]"):
                requests[i].wait()
        else:
            assert requests[i].wait()[0] == comm.size


@pytest.mark.mpi(min_size=2)
def test_the_same_sentence_on_every_rank(comm):
    with pytest.raises(MismatchError) as error:
        comm.allreduce(np.ones(comm.rank), op="max" if comm.rank else "sum")
    said = np.zeros(2000, np.uint8)
    text = str(error.value).encode()
    said[: len(text)] = np.frombuffer(text, np.uint8)
    assert np.array_equal(comm.allreduce(said, "max"), comm.allreduce(said, "min"))


@pytest.mark.mpi(min_size=2)
def test_a_refused_call_counts_as_a_call(comm):
    """The rank that refuses does not wait; the others do, and then all are in step."""
    last = comm.size - 1
    if comm.rank == last:
        with pytest.raises(ValueError, match="op is 'prod'"):
            comm.allreduce(np.ones(3), op="prod")
    else:
        with pytest.raises(MismatchError, match=f"rank {last} could not start allreduce #"):
            comm.allreduce(np.ones(3))
    assert comm.allreduce(np.ones(3))[0] == comm.size


def test_what_all_refuse_is_refused_as_ever(comm):
    with pytest.raises(ValueError, match="x is not C-contiguous"):
        comm.allreduce(np.ones((4, 4)).T[1:])
    assert comm.allreduce(np.ones(3))[0] == comm.size


@pytest.mark.mpi(min_size=2)
def test_messages_of_one_tag_keep_their_order(comm):
    """Comparisons end in any order, messages do not overtake each other for it."""
    counts = [300_000, 1, 0, 200_000, 5] * 5
    if comm.rank == 0:
        sent = [comm.isend(np.full(n, i), 1) for i, n in enumerate(counts)]
        [request.wait() for request in reversed(sent)]
    elif comm.rank == 1:
        outs = [np.zeros(n, int) for n in counts]
        [request.wait() for request in [comm.irecv(out, 0) for out in outs][::-1]]
        assert all(np.all(out == i) for i, out in enumerate(outs))


@pytest.mark.mpi(min_size=2)
def test_the_well_half_of_a_sendrecv_arrives(comm):
    """Rank 0's message to rank 1 does not fit; all others of the ring do."""
    after, before = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    x = np.full(200_000, comm.rank, np.float32 if comm.rank == 0 else np.float64)
    out = np.full(200_000, -1.0, np.float32 if before == 0 and comm.rank > 1 else np.float64)
    if comm.rank < 2:
        with pytest.raises(MismatchError, match="message from rank 0 to rank 1 with tag 0"):
            comm.sendrecv(x, after, out, before)
    else:
        comm.sendrecv(x, after, out, before)
    assert np.all(out == (-1 if comm.rank == 1 else before))


def test_guard_traffic_is_counted_apart(comm, unchecked):
    def totals(check):
        with Communicator(comm.mpi, check=check, timeout=20) as other:
            x, out = np.ones(1000), np.empty(1000)
            after, before = (other.rank + 1) % other.size, (other.rank - 1) % other.size
            other.allreduce(x, algorithm="ring")
            other.sendrecv(x, after, out, before)
            other.allgather(x)
        return other.ledger

    with_guard, without = totals(True), totals(False)
    for name in ("allreduce", "sendrecv", "allgather"):
        one, two = with_guard[name], without[name]
        assert (one.calls, one.messages, one.bytes) == (two.calls, two.messages, two.bytes)
    assert without["guard"].calls == 0
    guard, peers = with_guard["guard"], comm.size - 1
    if peers:
        assert guard.calls == 5  # sendrecv is two messages, and closing a call
        assert guard.messages == 3 * peers + 2
        assert 20 * guard.messages < guard.bytes < 500 * guard.messages


def test_without_a_guard_operations_are_as_they_were(unchecked):
    assert not {"allreduce", "iallreduce", "send", "split"} & set(vars(unchecked))
