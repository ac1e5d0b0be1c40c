"""The checker of pipelines finds planted faults, says where they are, and lets all else pass."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_pipeline import PlainPipeline, Wrong

from hpcpar.schedule import (
    Backward,
    BackwardInput,
    BackwardWeight,
    Forward,
    ReceiveActivation,
    ReceiveGradient,
    ScheduleError,
    SendActivation,
    SendGradient,
    check_pipeline,
    peak_activations,
    pipeline_schedule,
)

SENDS, RECEIVES = (SendActivation, SendGradient), (ReceiveActivation, ReceiveGradient)


def schedules_of(name, ranks, micros, chunks=None):
    return [list(pipeline_schedule(name, rank, ranks, micros, chunks)) for rank in range(ranks)]


def changed(schedules, rank, old, new):
    """One action of a rank replaced by any number of others."""
    at = schedules[rank].index(old)
    schedules[rank][at : at + 1] = new
    return schedules


@pytest.mark.parametrize(
    ("rank", "old", "new", "words"),
    [
        (2, Forward(2, 2), [], r"rank 2, action \d+ \(backward of micro-batch 2 .*: its forw"),
        (1, Backward(3, 1), [], r"rank 1, action \d+ \(send of the gra.* its backward does not"),
        (0, Backward(3, 0), [], r"rank 0 has no backward of micro-batch 3 in stage 0"),
        (0, Backward(2, 0), [Backward(2, 0)] * 2, r"rank 0, action \d+ \(backward.* second time"),
        (0, Forward(1, 0), [Forward(1, 0)] * 2, r"rank 0, action \d+ \(forward.* a second time"),
        (0, Forward(1, 0), [Forward(4, 0)], r"rank 0, action \d+ .*: there are 4 micro-batches"),
        (0, Forward(1, 0), [Forward(-1, 0)], r"rank 0, action \d+ .*: there are 4 micro-batches"),
        (0, Forward(1, 0), [Forward(1, 1)], r"rank 0, .* no such action among 3 stages on 3 ranks"),
        (2, Backward(1, 2), [Backward(1, 2), SendActivation(1, 2, 0)], r"rank 2, .* no such"),
        (0, Backward(1, 0), [BackwardInput(1, 0)], r"has no weight gradient of micro-batch 1"),
        (0, Backward(1, 0), [BackwardWeight(1, 0), BackwardInput(1, 0)],
         r"rank 0, action \d+ \(weight .* its input gradient does not come before"),
        (0, Backward(1, 0), [Backward(1, 0), BackwardWeight(1, 0)], r"rank 0, .* a second time"),
        (1, ReceiveActivation(2, 1, 0), [],
         r"rank 1, action \d+ \(forward of micro-batch 2 .* no receive of its input was started"),
        (1, ReceiveGradient(2, 1, 2), [],
         r"rank 1, action \d+ \(backward of micro-batch 2 .* no receive of its gradient was star"),
        (1, ReceiveActivation(2, 1, 0), [ReceiveActivation(2, 1, 2)], r"rank 1, .* is on rank 0"),
        (1, SendGradient(2, 1, 0), [SendGradient(2, 1, 1)], r"rank 1, .* other stage is on rank 0"),
        (1, SendActivation(2, 1, 2), [],
         r"rank 2, action \d+ \(receive of micro-batch 2 for stage 2 .* rank 1 has no send for it"),
        (1, SendGradient(2, 1, 0), [],
         r"rank 0, action \d+ \(receive of the gradient of micro-batch 2 .* rank 1 has no send"),
        (1, SendGradient(2, 1, 0), [SendGradient(2, 1, 0)] * 2, r"rank 1, .* a second time"),
    ],
)  # fmt: skip
def test_planted_faults(rank, old, new, words):
    schedules = changed(schedules_of("1f1b", 3, 4), rank, old, new)
    with pytest.raises(ScheduleError, match=words):
        check_pipeline(schedules, 4)


def test_a_send_that_nobody_receives():
    """Of the last micro-batch, whose receiver is not part of what is checked before."""
    schedules = schedules_of("gpipe", 2, 2)
    for old in (ReceiveActivation(1, 1, 0), Forward(1, 1), Backward(1, 1), SendGradient(1, 1, 0)):
        schedules[1].remove(old)
    with pytest.raises(ScheduleError, match="rank 1 has no forward of micro-batch 1 in stage 1"):
        check_pipeline(schedules, 2)


def test_gradients_out_of_order():
    schedules = schedules_of("gpipe", 1, 3)
    schedules[0][3:] = [Backward(0, 0), Backward(2, 0), Backward(1, 0)]
    with pytest.raises(ScheduleError, match=r"rank 0, action 4 .*: that of micro-batch 1 has to"):
        check_pipeline(schedules, 3)
    schedules[0][3:] = [BackwardInput(m, 0) for m in range(3)]
    schedules[0] += [BackwardWeight(m, 0) for m in (0, 1, 2)]
    check_pipeline(schedules, 3)
    schedules[0][6:] = [BackwardWeight(m, 0) for m in (2, 1, 0)]
    with pytest.raises(ScheduleError, match=r"rank 0, action 6 \(weight gradient of micro-batch 2"):
        check_pipeline(schedules, 3)


def test_messages_in_another_order():
    schedules = schedules_of("gpipe", 2, 2)
    first, second = (schedules[1].index(ReceiveActivation(m, 1, 0)) for m in (0, 1))
    steps = schedules[1]
    steps[first], steps[second] = steps[second], steps[first]
    words = r"rank 0, action 1 \(send of micro-batch 0 .*: it meets rank 1, action 0 \(receive of m"
    with pytest.raises(ScheduleError, match=words):
        check_pipeline(schedules, 2)


def test_neighbours_on_one_rank():
    schedules = schedules_of("interleaved", 1, 2)
    check_pipeline(schedules, 2, 2)
    schedules[0].sort(key=lambda action: -action.stage)
    with pytest.raises(ScheduleError, match="neighbouring stage on this rank does not come before"):
        check_pipeline(schedules, 2, 2)


def test_circular_wait():
    """Rank 0 wants the gradient of 0 before it makes what rank 1 wants first."""
    early: list[list] = [
        [Forward(0, 0), SendActivation(0, 0, 1), ReceiveGradient(0, 0, 1), Backward(0, 0),
         Forward(1, 0), SendActivation(1, 0, 1), ReceiveGradient(1, 0, 1), Backward(1, 0)],
        [ReceiveActivation(0, 1, 0), ReceiveActivation(1, 1, 0), Forward(0, 1), Forward(1, 1),
         Backward(0, 1), SendGradient(0, 1, 0), Backward(1, 1), SendGradient(1, 1, 0)],
    ]  # fmt: skip
    words = (
        r"circular wait: rank 0, action 3 \(backward of micro-batch 0 in stage 0\) waits for rank 1"
        r"; rank 1, action 3 \(forward of micro-batch 1 in stage 1\) waits for rank 0$"
    )
    with pytest.raises(ScheduleError, match=words):
        check_pipeline(early, 2)


def test_a_bystander_of_a_circle_is_not_named():
    """Ranks 1 and 2 wait for each other, rank 0 for rank 1."""
    schedules = schedules_of("1f1b", 3, 3)
    steps = schedules[1]
    steps.remove(Backward(0, 1))
    steps.remove(SendGradient(0, 1, 0))
    steps.remove(ReceiveGradient(0, 1, 2))
    at = steps.index(Forward(1, 1))
    steps[at:at] = [ReceiveGradient(0, 1, 2), Backward(0, 1), SendGradient(0, 1, 0)]
    check_pipeline(schedules, 3)
    last = schedules[2]
    last.remove(Backward(0, 2))
    last.remove(SendGradient(0, 2, 1))
    at = last.index(Forward(1, 2)) + 1
    last[at:at] = [Backward(0, 2), SendGradient(0, 2, 1)]
    with pytest.raises(ScheduleError, match="circular wait") as error:
        check_pipeline(schedules, 3)
    assert "rank 0, " not in str(error.value)
    assert "rank 1, " in str(error.value) and "rank 2, " in str(error.value)


def test_peak_counts_until_the_weights_have_their_gradient():
    steps = [Forward(0, 0), Forward(1, 0), BackwardInput(0, 0), Forward(2, 0), BackwardWeight(0, 0),
             Forward(3, 0), Backward(1, 0), Forward(4, 0)]  # fmt: skip
    assert peak_activations([steps, steps[:1], []]) == (3, 1, 0)


def mutate(schedules, draw):
    """Do one thing to one place."""
    rank = draw(st.integers(0, len(schedules) - 1))
    if not schedules[rank]:
        return
    steps = schedules[rank]
    at = draw(st.integers(0, len(steps) - 1))
    to = draw(st.integers(0, len(steps) - 1))
    what = draw(st.sampled_from(
        ["drop", "duplicate", "swap", "next", "move", "deport", "micro", "stage", "peer", "split"]
    ))  # fmt: skip
    action = steps[at]
    if what == "drop":
        del steps[at]
    elif what == "duplicate":
        steps.insert(to, action)
    elif what == "swap":
        steps[at], steps[to] = steps[to], action
    elif what == "next":
        to = min(at + 1, len(steps) - 1)
        steps[at], steps[to] = steps[to], action
    elif what == "move":
        steps.insert(to, steps.pop(at))
    elif what == "deport":
        other = schedules[draw(st.integers(0, len(schedules) - 1))]
        other.insert(min(to, len(other)), steps.pop(at))
    elif what in ("micro", "stage"):
        by = draw(st.sampled_from([-1, 1]))
        steps[at] = replace(action, **{what: getattr(action, what) + by})
    elif what == "peer" and isinstance(action, SENDS):
        steps[at] = replace(action, to=to % len(schedules))
    elif what == "peer" and isinstance(action, RECEIVES):
        steps[at] = replace(action, source=to % len(schedules))
    elif isinstance(action, Backward):
        near = (action.micro, action.stage)
        steps[at : at + 1] = [BackwardInput(*near), BackwardWeight(*near)]


@given(st.data())
@settings(max_examples=600)
def test_the_checker_finds_what_a_performer_would_fall_over_and_no_more(data):
    name, chunks = data.draw(st.sampled_from(
        [("gpipe", 1), ("1f1b", 1), ("zero-bubble", 1), ("interleaved", 2), ("interleaved", 3)]
    ))  # fmt: skip
    ranks, micros = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    schedules = schedules_of(name, ranks, micros, chunks)
    for _ in range(data.draw(st.integers(1, 2))):
        mutate(schedules, data.draw)
    try:
        PlainPipeline(schedules, micros, chunks).run()
    except Wrong:
        with pytest.raises(ScheduleError, match="rank"):
            check_pipeline(schedules, micros, chunks)
    else:
        check_pipeline(schedules, micros, chunks)


@pytest.mark.parametrize(("name", "chunks"), [("gpipe", 1), ("zero-bubble", 1), ("interleaved", 2)])
def test_any_action_left_out_or_done_twice_is_found(name, chunks):
    for rank in range(3):
        for number in range(len(pipeline_schedule(name, rank, 3, 4, chunks))):
            for times in (0, 2):
                schedules = schedules_of(name, 3, 4, chunks)
                schedules[rank][number : number + 1] = [schedules[rank][number]] * times
                with pytest.raises(ScheduleError, match="rank"):
                    check_pipeline(schedules, 4, chunks)
