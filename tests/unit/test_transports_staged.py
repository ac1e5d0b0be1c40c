"""Staged transfers in virtual time: as fast as their slowest stage, whichever it is."""

import numpy as np
import pytest
from late_gpu import LateGpu, LateStream
from virtual_gpu import Clock, Speeds, VirtualGpu, VirtualLink, a_call, run_ranks

from hpcpar.comm.perform import Bound, Programs, Scratch, perform
from hpcpar.comm.transports.staged import CHUNK, StagedTransport
from hpcpar.schedule import point_to_point
from hpcpar.schedule.steps import Recv, Send, Span

GB = 1e9
SIZE = 64 << 20
STAGES = {
    "all alike": Speeds(25 * GB, 25 * GB, 25 * GB),
    "slow to the host": Speeds(12 * GB, 25 * GB, 25 * GB),
    "slow network": Speeds(25 * GB, 12 * GB, 25 * GB),
    "slow to the GPU": Speeds(25 * GB, 25 * GB, 12 * GB),
    "fast bus, slow network": Speeds(55 * GB, 3 * GB, 55 * GB),
}


def seconds(speeds, schedules, buffers):
    """Virtual seconds that the ranks' schedules take together."""
    clock = Clock()
    link, works = VirtualLink(clock, speeds), []
    for rank, (steps, arrays) in enumerate(zip(schedules, buffers, strict=True)):
        transport = StagedTransport(VirtualGpu(clock, speeds))
        bound = Bound(Programs()[steps], arrays, "add", transport, Scratch())
        works.append(perform(a_call(), bound, transport, link.channel(rank)))
    return run_ranks(clock, works)


@pytest.mark.parametrize("speeds", STAGES.values(), ids=STAGES)
def test_a_long_message_takes_what_its_slowest_stage_takes(speeds):
    x = np.arange(SIZE // 4, dtype=np.uint32).view(np.uint8)
    out = np.zeros_like(x)
    steps = [point_to_point.send(1, SIZE, CHUNK), point_to_point.receive(0, SIZE, CHUNK)]
    time = seconds(speeds, steps, [{"x": x}, {"out": out}])
    assert np.array_equal(out, x)
    alone = [SIZE / speed for speed in (speeds.down, speeds.network, speeds.up)]
    assert max(alone) <= time <= 1.2 * max(alone)


def test_in_one_piece_it_takes_the_sum():
    """The chunks are what makes the difference."""
    speeds, x = STAGES["all alike"], np.zeros(SIZE, np.uint8)
    steps = [point_to_point.send(1, SIZE, SIZE), point_to_point.receive(0, SIZE, SIZE)]
    time = seconds(speeds, steps, [{"x": x}, {"out": x.copy()}])
    assert time > 2.9 * SIZE / speeds.down


def test_both_directions_at_once_take_no_longer_than_one():
    """The two copy directions are separate engines, and so are the two of the link."""
    speeds = STAGES["all alike"]
    x = [np.full(SIZE, rank, np.uint8) for rank in range(2)]
    outs = [np.empty_like(part) for part in x]
    steps = [point_to_point.sendrecv(1 - rank, SIZE, 1 - rank, SIZE, CHUNK) for rank in range(2)]
    time = seconds(speeds, steps, [{"x": x[r], "out": outs[r]} for r in range(2)])
    assert all(np.array_equal(outs[rank], x[1 - rank]) for rank in range(2))
    assert time <= 1.2 * SIZE / speeds.network


def test_a_broadcast_goes_on_before_the_last_chunk_is_in():
    """The middle of three ranks passes on what it has: little more than one transfer."""
    speeds = STAGES["slow network"]
    x = [np.full(SIZE, 7 if rank == 0 else 0, np.uint8) for rank in range(3)]
    spans = [Span("x", start, start + CHUNK) for start in range(0, SIZE, CHUNK)]
    first = tuple(Send(1, span) for span in spans)
    middle = tuple(step for span in spans for step in (Recv(0, span), Send(2, span)))
    last = tuple(Recv(1, span) for span in spans)
    time = seconds(speeds, [first, middle, last], [{"x": part} for part in x])
    assert all(np.all(part == 7) for part in x)
    assert time <= 1.2 * SIZE / speeds.network


@pytest.mark.parametrize("known", [True, False])
def test_the_stream_of_the_call_counts_also_when_it_is_another_by_now(known):
    gpu = LateGpu(haste=1)  # arithmetic that does not wait for anything but events
    transport, x, seen = StagedTransport(gpu), np.zeros(3), []
    gpu.slow.put(lambda: x.fill(7))
    ready = transport.ready() if known else None
    gpu.slow = LateStream(gpu, False)  # the caller has left the stream that fills x
    transport.begin(ready)
    transport.compute(lambda: seen.append(x[0]))
    mark = transport.end()
    while not transport.ended(mark):
        pass
    assert seen == [7 if known else 0]
