"""The four pipeline schedules: right for every number of ranks and micro-batches."""

import pytest
from long import LONG

from hpcpar.schedule import PIPELINES, check_pipeline, peak_activations, pipeline_schedule
from hpcpar.schedule.pipeline_actions import (
    Backward,
    BackwardInput,
    BackwardWeight,
    Forward,
    ReceiveActivation,
    ReceiveGradient,
    SendActivation,
    SendGradient,
)

KINDS = [("gpipe", 1), ("1f1b", 1), ("zero-bubble", 1), ("interleaved", 2), ("interleaved", 3)]
COMPUTE = (Forward, Backward, BackwardInput, BackwardWeight)
SENDS = (SendActivation, SendGradient)


def schedules_of(name, ranks, micros, chunks=None):
    return [pipeline_schedule(name, rank, ranks, micros, chunks) for rank in range(ranks)]


def most_activations(name, rank, ranks, micros, chunks):
    """What docs/pipelines.md says."""
    if name == "gpipe":
        return micros
    if name == "1f1b":
        return min(micros, ranks - rank)
    if name == "zero-bubble":
        return min(micros, ranks)
    group = -(-micros // max(1, micros // ranks))
    return min(micros * chunks, (chunks - 1) * group + 2 * (ranks - 1 - rank) + 1)


@pytest.mark.parametrize(("name", "chunks"), KINDS if LONG else KINDS[:-1])
def test_all_ranks_and_micro_batches(name, chunks):
    """1 to 16 ranks, 1 to 64 micro-batches: right, and exactly as many activations as told."""
    for ranks in range(1, 17):
        for micros in range(1, 65):
            schedules = schedules_of(name, ranks, micros, chunks)
            check_pipeline(schedules, micros, chunks)
            assert peak_activations(schedules) == tuple(
                most_activations(name, rank, ranks, micros, chunks) for rank in range(ranks)
            )


@pytest.mark.parametrize(("name", "chunks"), [*KINDS, ("interleaved", 5)])
@pytest.mark.parametrize("ranks", [2, 3, 8])
@pytest.mark.parametrize("micros", [1, 2, 7, 8, 13])
def test_receives_are_one_compute_action_ahead_and_sends_follow_at_once(
    name, chunks, ranks, micros
):
    last = ranks * chunks - 1
    for steps in schedules_of(name, ranks, micros, chunks):
        computes = [number for number, action in enumerate(steps) if isinstance(action, COMPUTE)]
        expected: list[list] = [[] for _ in range(len(computes) + 1)]  # between compute actions
        for place, number in enumerate(computes):
            action = steps[number]
            micro, stage = action.micro, action.stage
            before, after = (stage - 1) % ranks, (stage + 1) % ranks
            ahead = expected[max(0, place - 1)]
            if isinstance(action, Forward):
                ahead += [ReceiveActivation(micro, stage, before)] * (stage > 0)
                expected[place + 1] += [SendActivation(micro, stage, after)] * (stage < last)
            elif not isinstance(action, BackwardWeight):
                ahead += [ReceiveGradient(micro, stage, after)] * (stage < last)
                expected[place + 1] += [SendGradient(micro, stage, before)] * (stage > 0)
        edges = [-1, *computes, len(steps)]
        for start, end, transfers in zip(edges, edges[1:], expected, strict=False):
            assert sorted(map(str, steps[start + 1 : end])) == sorted(map(str, transfers))
            kinds = [isinstance(action, SENDS) for action in steps[start + 1 : end]]
            assert kinds == sorted(kinds, reverse=True)  # what is there goes first


@pytest.mark.parametrize(("name", "chunks"), KINDS)
@pytest.mark.parametrize("ranks", [2, 3, 5, 8])
@pytest.mark.parametrize("micros", [1, 4, 8, 11, 23])
def test_messages_of_one_kind_keep_their_order_over_all_stages(name, chunks, ranks, micros):
    """So that they may also be matched by (source, destination, kind) alone."""
    schedules = schedules_of(name, ranks, micros, chunks)
    for sends, receives, next_stage in (
        (SendActivation, ReceiveActivation, 1),
        (SendGradient, ReceiveGradient, -1),
    ):
        for sender in range(ranks):
            for receiver in range(ranks):
                assert [
                    (action.micro, action.stage + next_stage)
                    for action in schedules[sender]
                    if isinstance(action, sends) and action.to == receiver
                ] == [
                    (action.micro, action.stage)
                    for action in schedules[receiver]
                    if isinstance(action, receives) and action.source == sender
                ]


def test_the_order_of_1f1b_as_in_the_paper():
    first, last = schedules_of("1f1b", 2, 3)
    assert [str(action) for action in last] == [
        "receive of micro-batch 0 for stage 1 from rank 0",
        "forward of micro-batch 0 in stage 1",
        "receive of micro-batch 1 for stage 1 from rank 0",
        "backward of micro-batch 0 in stage 1",
        "send of the gradient of micro-batch 0 from stage 1 to rank 0",
        "forward of micro-batch 1 in stage 1",
        "receive of micro-batch 2 for stage 1 from rank 0",
        "backward of micro-batch 1 in stage 1",
        "send of the gradient of micro-batch 1 from stage 1 to rank 0",
        "forward of micro-batch 2 in stage 1",
        "backward of micro-batch 2 in stage 1",
        "send of the gradient of micro-batch 2 from stage 1 to rank 0",
    ]
    assert [type(action).__name__[0] for action in first if isinstance(action, COMPUTE)] == [
        *"FFBFBB"
    ]


def test_interleaved_is_megatrons_where_that_has_one():
    """Narayanan et al. 2021, figure 4: 4 ranks, 8 micro-batches, 2 chunks; rank 0's forwards."""
    steps = pipeline_schedule("interleaved", 0, 4, 8)
    order = [(a.micro, a.stage) for a in steps if isinstance(a, Forward)]
    first, second = ([(m, s) for s in (0, 4) for m in group] for group in (range(4), range(4, 8)))
    assert order == first + second
    computes = [a for a in steps if isinstance(a, COMPUTE)]
    assert computes.index(Backward(0, 4)) == 11  # 2 (4 - 1) + (2 - 1) 4 ahead, and one in turn


@pytest.mark.parametrize("name", PIPELINES)
def test_one_rank_moves_nothing(name):
    (steps,) = schedules_of(name, 1, 5)
    assert all(isinstance(action, COMPUTE) for action in steps)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pipedream", 0, 2, 4), "no pipeline schedule 'pipedream': take one of gpipe, 1f1b"),
        (("1f1b", 2, 2, 4), "no rank 2 in a pipeline of 2"),
        (("1f1b", -1, 2, 4), "no rank -1"),
        (("1f1b", 0, 0, 4), "pipeline of 0"),
        (("gpipe", 0, 2, 0), "at least one micro-batch, not 0"),
        (("zero-bubble", 0, 2, 4, 2), "zero-bubble has one chunk a rank, not 2"),
        (("interleaved", 0, 2, 4, 1), "at least 2 chunks a rank, not 1"),
    ],
)
def test_what_makes_no_schedule(arguments, words):
    with pytest.raises(ValueError, match=words):
        pipeline_schedule(*arguments)
