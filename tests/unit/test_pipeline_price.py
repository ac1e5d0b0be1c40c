"""The pricer of pipelines: the formulas of the papers, and a plain recursion for all else."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcpar.schedule import (
    PIPELINES,
    Backward,
    BackwardInput,
    BackwardWeight,
    Forward,
    ReceiveActivation,
    ReceiveGradient,
    SendActivation,
    SendGradient,
    pipeline_schedule,
    price_pipeline,
)

SIZES = [1, 2, 3, 4, 7, 8]
COMPUTE = (Forward, Backward, BackwardInput, BackwardWeight)


def schedules_of(name, ranks, micros, chunks=None):
    return [pipeline_schedule(name, rank, ranks, micros, chunks) for rank in range(ranks)]


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
@pytest.mark.parametrize("ranks", SIZES)
def test_gpipe_and_1f1b(name, ranks):
    """m micro-batches take (m + p - 1) (F + B): Narayanan et al. 2021, section 2.2."""
    for micros in (1, 2, 3, 5, 8, 9, 16, 31):
        for forward, backward in ((1, 2), (1, 1), (3, 1)):
            price = price_pipeline(schedules_of(name, ranks, micros), forward, backward)
            assert price.seconds == (micros + ranks - 1) * (forward + backward)
            assert 1 - price.bubble == pytest.approx(micros / (micros + ranks - 1), rel=1e-12)


@pytest.mark.parametrize("chunks", [2, 3, 4])
@pytest.mark.parametrize("ranks", SIZES)
def test_interleaved(ranks, chunks):
    """The bubble is divided by v, also where m is no multiple of p; for m < p each round waits."""
    for micros in (1, 2, 3, 4, 7, 8, 9, 11, 15, 16, 31):
        # A chunk takes 1 forward and 2 backwards, a rank v of them.
        price = price_pipeline(schedules_of("interleaved", ranks, micros, chunks), 1, 2)
        waits = ranks - 1 + (chunks - 1) * max(0, ranks - micros)
        assert price.seconds == (micros * chunks + waits) * 3
        if micros >= ranks:
            efficiency = micros * chunks / (micros * chunks + ranks - 1)
            assert 1 - price.bubble == pytest.approx(efficiency, rel=1e-12)


@pytest.mark.parametrize("ranks", SIZES)
def test_zero_bubble(ranks):
    """(p - 1) (F + B - W) from m = p on, where B is the input half: Qi et al. 2023, section 2.3."""
    for micros in (1, 2, 3, 4, 5, 7, 8, 9, 16, 31):
        schedules = schedules_of("zero-bubble", ranks, micros)
        for forward, inputs, weight in ((1, 1, 1), (2, 1, 1), (2, 2, 1), (4, 3, 2)):
            price = price_pipeline(schedules, forward, inputs + weight, weight)
            bubble = (ranks - 1) * (forward + inputs) - (min(micros, ranks) - 1) * weight
            assert price.seconds == micros * (forward + inputs + weight) + bubble
        gain = price_pipeline(schedules_of("1f1b", ranks, micros), 1, 2).seconds
        gain -= price_pipeline(schedules, 1, 2).seconds  # half of a backward is the weights'
        whole = (ranks - 1) * 3  # the bubble of 1f1b
        if micros >= ranks:
            assert gain == whole * 2 / 3
        assert (gain >= whole / 2) == (2 * micros >= ranks + 1 or ranks == 1)


@pytest.mark.parametrize("name", ["gpipe", "interleaved", "zero-bubble"])
def test_transfers_travel_while_the_ranks_compute(name):
    """They delay the first and the last micro-batches; those between do not wait for them."""
    few, many = (price_pipeline(schedules_of(name, 4, m), 1, 2, transfer=0.5) for m in (16, 32))
    chunks = 2 if name == "interleaved" else 1
    assert many.seconds - few.seconds == 16 * 3 * chunks
    assert few.seconds > price_pipeline(schedules_of(name, 4, 16), 1, 2).seconds


def test_1f1b_waits_for_transfers():
    """With so few activations there is nothing else to compute: 2 (p - 1) / p a micro-batch."""
    few, many = (price_pipeline(schedules_of("1f1b", 4, m), 1, 2, transfer=0.25) for m in (16, 32))
    assert many.seconds - few.seconds == 16 * 3 + 16 * 2 * 3 / 4 * 0.25


def plain(schedules, costs, transfer):
    """When each compute action ends, by rank and place: corrected until all is in agreement."""
    ranks = len(schedules)
    end = {(rank, n): 0.0 for rank, steps in enumerate(schedules) for n in range(len(steps))}
    where = {action: (rank, n) for rank, steps in enumerate(schedules)
             for n, action in enumerate(steps)}  # fmt: skip

    def before(rank, n):
        return end[rank, n - 1] if n else 0.0

    def arrives(rank, action):
        micro, stage = action.micro, action.stage
        if isinstance(action, Forward):
            receive = ReceiveActivation(micro, stage, (stage - 1) % ranks)
            send = SendActivation(micro, stage - 1, rank)
        else:
            receive = ReceiveGradient(micro, stage, (stage + 1) % ranks)
            send = SendGradient(micro, stage + 1, rank)
        if isinstance(action, BackwardWeight) or receive not in where:
            return 0.0
        return max(before(*where[receive]), before(*where[send])) + transfer

    while True:
        old = dict(end)
        for rank, steps in enumerate(schedules):
            for n, action in enumerate(steps):
                start = before(rank, n)
                if isinstance(action, COMPUTE):
                    start = max(start, arrives(rank, action)) + costs[type(action)][action.stage]
                end[rank, n] = start
        if old == end:
            return end, where


@given(st.data())
@settings(max_examples=60)
def test_stages_of_any_cost(data):
    name = data.draw(st.sampled_from(PIPELINES))
    ranks, micros = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 7))
    chunks = data.draw(st.integers(2, 3)) if name == "interleaved" else 1
    times = st.lists(st.integers(0, 9), min_size=ranks * chunks, max_size=ranks * chunks)
    forward, inputs, weight = (data.draw(times) for _ in range(3))
    backward = [a + b for a, b in zip(inputs, weight, strict=True)]
    transfer = data.draw(st.integers(0, 3))
    schedules = schedules_of(name, ranks, micros, chunks)
    price = price_pipeline(schedules, forward, backward, weight, transfer)
    costs = {Forward: forward, Backward: backward, BackwardInput: inputs, BackwardWeight: weight}
    end, where = plain(schedules, costs, transfer)
    assert price.seconds == max(end.values())
    assert sorted(map(str, (e[:2] for e in price.timeline))) == sorted(
        str((rank, action)) for rank, steps in enumerate(schedules) for action in steps
    )
    for rank, action, start, stop in price.timeline:
        if isinstance(action, COMPUTE):
            assert where[action][0] == rank and stop == end[where[action]]
            assert stop - start == costs[type(action)][action.stage]
        else:
            assert stop - start == transfer
    for rank in range(ranks):
        computed = [e for e in price.timeline if e[0] == rank and isinstance(e[1], COMPUTE)]
        assert sum(stop - start for *_, start, stop in computed) == price.busy[rank]
        assert all(first[3] <= second[2] for first, second in pairwise(computed))
    if price.seconds:
        assert price.bubble == pytest.approx(1 - sum(price.busy) / ranks / price.seconds)


def test_the_slowest_stage_sets_the_pace():
    """p ranks of one slow stage: the others wait for it."""
    price = price_pipeline(schedules_of("gpipe", 3, 10), [1, 5, 1], [2, 10, 2])
    assert price.seconds == 10 * 15 + 2 * 3
    assert price.busy == (30, 150, 30)


def test_a_send_that_is_held_up():
    """A message is under way from when both have come to it."""
    schedules = [
        [Forward(0, 0), SendActivation(0, 0, 1), Forward(1, 0), SendActivation(1, 0, 1)],
        [ReceiveActivation(0, 1, 0), Forward(0, 1), ReceiveActivation(1, 1, 0), Forward(1, 1)],
    ]
    price = price_pipeline(schedules, [1, 10], 0, transfer=2)
    assert [e[2:] for e in price.timeline if e[0] == 1] == [(1, 3), (3, 13), (13, 15), (15, 25)]


def test_nothing_costs_nothing():
    price = price_pipeline([[], []], 1, 1)
    assert (price.seconds, price.bubble, price.busy) == (0, 0, (0, 0))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([1, 1, 1], 1), "forward has 3 times for 2 virtual stages"),
        ((1, [1]), "backward has 1 times for 2 virtual stages"),
        ((-1, 1), "forward has to take 0 seconds or more, not -1"),
        ((1, float("nan")), "backward has to take 0 seconds or more, not nan"),
        (
            (1, 2, 3),
            "the weight gradient of stage 0 takes 3.0 seconds, more than the backward, 2.0",
        ),
        ((1, 2, 1, -0.5), "transfer has to take 0 seconds or more, not -0.5"),
    ],
)
def test_times_that_are_none(arguments, words):
    with pytest.raises(ValueError, match=words):
        price_pipeline(schedules_of("1f1b", 2, 2), *arguments)


def test_ranks_that_wait_for_ever():
    schedules = schedules_of("1f1b", 2, 2)
    with pytest.raises(
        ValueError, match="rank 1 waits for ever before its forward of micro-batch 0"
    ):
        price_pipeline([(), schedules[1]], 1, 1)
