"""The checker finds planted faults, and says where they are."""

import numpy as np
import pytest

from hpcpar.schedule import Combine, Copy, Recv, ScheduleError, Send, Span, Step, check, simulate
from hpcpar.schedule import collectives as schedules
from hpcpar.schedule.steps import dependencies

X, OUT, SCRATCH = Span("x", 0, 4), Span("out", 0, 4), Span("scratch", 0, 4)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([[Send(1, X)], []], r"rank 0, step 0 .*: rank 1 has no receive for it"),
        ([[], [Recv(0, OUT)]], r"rank 1, step 0 .*: rank 0 has no send for it"),
        ([[Send(1, X)], [Recv(0, Span("out", 0, 3))]], r"rank 0, step 0 .* the lengths differ"),
        ([[Send(2, X)], []], r"no rank 2 among 2"),
        ([[Combine(OUT, X, Span("x", 0, 2))]], r"rank 0, step 0 .* the lengths differ"),
        ([[Copy(OUT, Span("x", 0, 9))]], r"x\[0:9\] is outside its buffer of 4"),
        ([[Copy(OUT, Span("x", 3, -1))]], "outside"),
        ([[Copy(Span("x", 1, 3), Span("x", 0, 2))]], "overlap in part"),
    ],
)
def test_planted_faults(steps, words):
    with pytest.raises(ScheduleError, match=words):
        check(steps, {"x": 4, "out": 4, "scratch": 4})


def test_circular_wait():
    """Both insist that their send is over before they receive: fine only as long as MPI buffers."""
    steps: list[list[Step]] = [
        [Send(peer, X), Copy(X, SCRATCH), Recv(peer, OUT), Copy(SCRATCH, OUT)] for peer in (1, 0)
    ]
    with pytest.raises(ScheduleError, match=r"circular wait: rank 0.*send.*; rank 1.*send"):
        check(steps)


def test_circular_wait_of_three_is_named_without_the_bystander():
    ring: list[list[Step]] = [
        [Recv((r - 1) % 3, OUT), Copy(X, OUT), Send((r + 1) % 3, X)] for r in range(3)
    ]
    steps: list[list[Step]] = [*ring, [Recv(0, OUT)]]
    steps[0] = [*ring[0], Send(3, X)]
    with pytest.raises(ScheduleError, match="circular wait") as error:
        check(steps)
    assert "rank 3" not in str(error.value)


def test_sizes_of_each_rank():
    steps: list[list[Step]] = [[Send(1, X)], [Recv(0, OUT)]]
    check(steps, [{"x": 4}, {"out": 4}])
    with pytest.raises(ScheduleError, match="rank 1"):
        check(steps, [{"x": 4}, {"out": 3}])


@pytest.mark.parametrize("size", [2, 3, 5, 8])
@pytest.mark.parametrize("algorithm", ["auto", "ring", "direct"])
def test_any_step_left_out_is_found(size, algorithm):
    """Without one transfer a schedule does not fit together, whichever it is."""
    whole = [
        list(schedules.allreduce(rank, size, 5000, algorithm, segment=400)) for rank in range(size)
    ]
    check(whole)
    for number, step in enumerate(whole[1]):
        if isinstance(step, Send | Recv):
            broken = [*whole]
            broken[1] = whole[1][:number] + whole[1][number + 1 :]
            with pytest.raises(ScheduleError):
                check(broken)


def test_dependencies_are_the_scoreboard():
    steps: list[Step] = [
        Recv(1, SCRATCH),  # 0
        Send(1, X),  # 1: reads what nobody writes
        Combine(OUT, X, SCRATCH),  # 2: needs the receive
        Send(1, OUT),  # 3
        Recv(1, OUT),  # 4: writes what is being sent
        Copy(Span("x", 2, 3), Span("x", 0, 1)),  # 5: the send of x
        Send(1, Span("out", 3, 4)),  # 6: reads what arrives
        Recv(1, Span("scratch", 0, 0)),  # 7: nothing
    ]
    assert dependencies(steps) == [(), (), (0,), (), (3,), (1,), (4,), ()]


def test_simulation_moves_late():
    """What is sent must still be there when the receiver takes it."""
    steps: list[list[Step]] = [[Send(1, X)], [Recv(0, OUT), Copy(SCRATCH, OUT)]]
    buffers = [{"x": np.arange(4.0)}, {"out": np.zeros(4), "scratch": np.zeros(4)}]
    simulate(steps, buffers, np.add)
    assert np.array_equal(buffers[1]["scratch"], np.arange(4.0))


def test_hundreds_of_ranks():
    for size in (100, 256):
        check([schedules.allreduce(rank, size, size * 3) for rank in range(size)])
        check([schedules.barrier(rank, size) for rank in range(size)])
        check([schedules.bcast(rank, size, 10, 7) for rank in range(size)])
        check([schedules.reduce(rank, size, 10, 7) for rank in range(size)])
