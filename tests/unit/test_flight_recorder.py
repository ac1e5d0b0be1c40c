"""What is recorded is read again, from the same bytes, whenever they are looked at."""

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.comm.flight.folder import open_file
from hpcpar.comm.flight.layout import (
    COLLECTIVE,
    FILE_BYTES,
    GROUP_COUNT,
    MESSAGE,
    NAME_COUNT,
    RING_COUNT,
    SITE_BYTES,
    decode,
    pulse,
    ranges_text,
    read_ranges,
)
from hpcpar.comm.flight.recorder import Recorder
from hpcpar.comm.flight.rows import from_json, make_row, to_json

WORD = st.integers(-(2**63), 2**63 - 1)
ABOUT = {"host": "nöde7", "command": "python train.py", "started": "now", "stack": "rank0002.stack"}


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """A recorder in memory that has a file descriptor, as in a run."""
    descriptor = open_file(None, "test")
    yield Recorder(descriptor, rank=2, size=4, about=ABOUT)
    os.close(descriptor)


def open_group(recorder: Recorder, size: int = 4) -> int:
    return recorder.open_group(77, list(range(size)), 2, 30.0, 5)


def record(recorder: Recorder, slot: int, number: int, name: str = "allreduce") -> int:
    site = recorder.site(sys._getframe())
    return recorder.begin(slot, recorder.operation(name), number, 8, -1, site)


def test_header_and_group(recorder):
    open_group(recorder)
    said = recorder.snapshot()
    assert (said.rank, said.size, said.pid, said.about) == (2, 4, os.getpid(), ABOUT)
    assert not said.closed and said.waiting is None and said.calls == ()
    group = said.groups[77]
    assert (group.size, group.number, group.members) == (4, 2, "0-3")
    assert (group.timeout, group.watch) == (30 * 10**9, 5)
    recorder.close()
    assert recorder.snapshot().closed


def test_another_process_reads_the_same(recorder):
    record(recorder, open_group(recorder) + COLLECTIVE, 1)
    assert decode(os.pread(recorder.descriptor, FILE_BYTES, 0)) == recorder.snapshot()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["collective", "message"]),
            st.sampled_from(["allreduce", "send", "eine lange Operation ohne Ende, weiter"]),
            *[st.integers(1, 2**62), st.integers(0, 2**62), st.integers(-1, 2**31)],
            st.sampled_from(["under way", "over", "given up", "started", "finished"]),
        ),
        max_size=2 * RING_COUNT,
    )
)
def test_calls_come_back(calls):
    recorder = Recorder(None)
    handle = open_group(recorder)
    slots = {"collective": handle + COLLECTIVE, "message": handle + MESSAGE}
    site = recorder.site(sys._getframe())
    for kind, name, number, size, peer, fate in calls:
        call = (slots[kind], recorder.operation(name), number, size, peer, site)
        if fate in ("started", "finished"):
            started = recorder.start(*call)
            if fate == "finished":
                recorder.finish(started)
            continue
        entry = recorder.begin(*call)
        if fate == "over":
            recorder.end(entry)
        elif fate == "given up":
            recorder.give_up(entry)
    said = recorder.snapshot()
    told = [
        (
            call.kind,
            call.operation,
            call.number,
            call.bytes,
            call.peer,
            {
                (False, 0): "under way",
                (False, 1): "over",
                (False, -1): "given up",
                (True, 0): "started",
                (True, 1): "finished",
            }[call.request, (call.end > 0) - (call.end < 0)],
        )
        for call in said.calls
    ]
    kept = [(kind, name[:32], *rest) for kind, name, *rest in calls[-RING_COUNT:]]
    assert told == kept
    assert all(call.site.startswith(__file__) and call.group == 77 for call in said.calls)
    for kind in slots:
        numbers = [number for k, _, number, *_ in calls if k == kind]
        assert said.groups[77].begun[kind] == (numbers[-1] if numbers else 0)
    row = make_row(said, said.activity)
    assert from_json(to_json(row)) == row


def test_the_ring_goes_round(recorder):
    slot = open_group(recorder) + COLLECTIVE
    for number in range(1, 1000):
        recorder.end(record(recorder, slot, number))
    numbers = [call.number for call in recorder.snapshot().calls]
    assert numbers == list(range(1000 - RING_COUNT, 1000))


def test_a_call_that_was_written_over_is_not_ended_in_another(recorder):
    slot = open_group(recorder) + MESSAGE
    operation = recorder.operation("recv")
    early = recorder.start(slot, operation, 1, 8, 0, 0)
    recorder.wait(early)
    entries = [record(recorder, slot, number) for number in range(2, RING_COUNT + 2)]
    assert entries[-1] == early[0]
    recorder.finish(early)
    newest = recorder.snapshot().calls[-1]
    assert newest.number == RING_COUNT + 1 and newest.end == 0
    recorder.wait(early)
    assert recorder.snapshot().waiting == newest  # which blocks; the early one is not there


def test_what_it_waits_in(recorder):
    handle = open_group(recorder)
    operation = recorder.operation("recv")
    first = recorder.start(handle + MESSAGE, operation, 1, 8, 0, 0)
    second = recorder.start(handle + MESSAGE, operation, 2, 8, 0, 0)
    assert recorder.snapshot().waiting is None  # it computes
    recorder.wait(first)
    assert recorder.snapshot().waiting.number == 1
    recorder.finish(second)
    assert recorder.snapshot().waiting.number == 1
    recorder.finish(first)
    assert recorder.snapshot().waiting is None
    entry = record(recorder, handle + COLLECTIVE, 1)
    assert recorder.snapshot().waiting.operation == "allreduce"
    recorder.end(entry)
    assert recorder.snapshot().waiting is None
    recorder.wait(third := recorder.start(handle + MESSAGE, operation, 3, 8, 0, 0))
    recorder.go_on()
    assert recorder.snapshot().waiting is None
    recorder.wait(third)
    recorder.give_up(third)
    assert recorder.snapshot().waiting is None


def test_whatever_happens_moves_the_pulse_and_the_clock(recorder):
    slot = open_group(recorder) + MESSAGE
    operation = recorder.operation("recv")
    call = None

    def start():
        nonlocal call
        call = recorder.start(slot, operation, 1, 8, 0, 0)

    steps = [
        start,
        lambda: recorder.wait(call),
        recorder.progress,
        recorder.progress,
        lambda: recorder.finish(call),
        lambda: recorder.end(record(recorder, slot, 2)),
    ]
    seen, clock = [pulse(recorder._words)], recorder.activity
    for step in steps:
        step()
        seen.append(pulse(recorder._words))
        assert recorder.activity >= clock
        clock = recorder.activity
    assert len(set(seen)) == len(steps) + 1


def test_sites_are_written_once_and_keep_their_end(recorder):
    def here() -> int:
        return recorder.site(sys._getframe())

    assert len({here() for _ in range(9)}) == 1
    code = compile("import sys\nframe = sys._getframe()", "/a" * SITE_BYTES + "/train.py", "exec")
    scope: dict = {}
    exec(code, scope)
    slot = open_group(recorder) + COLLECTIVE
    recorder.begin(slot, 0, 1, 0, -1, recorder.site(scope["frame"]))
    call = recorder.snapshot().calls[-1]
    assert call.site.endswith("/train.py:2") and len(call.site) == SITE_BYTES
    assert call.operation == "?"  # 0 is no operation


def test_tables_that_are_full_lose_names_and_nothing_else(recorder):
    numbers = [recorder.operation(f"operation {i}") for i in range(NAME_COUNT + 3)]
    assert numbers[: NAME_COUNT - 1] == list(range(1, NAME_COUNT))
    assert set(numbers[NAME_COUNT - 1 :]) == {0}
    handles = [recorder.open_group(i + 1, [0], 0, 1, 1) for i in range(GROUP_COUNT + 3)]
    assert len(set(handles)) == GROUP_COUNT
    record(recorder, handles[-1] + COLLECTIVE, 5)
    call = recorder.snapshot().calls[-1]
    assert (call.group, call.number, call.kind) == (0, 5, "collective")
    recorder.close_group(handles[-1])  # nothing to close
    recorder.close_group(handles[0])
    assert recorder.open_group(999, [0], 0, 1, 1) == handles[0]


def test_a_call_is_not_laid_to_a_later_communicator(recorder):
    handle = open_group(recorder)
    recorder.end(record(recorder, handle + COLLECTIVE, 1))
    recorder.close_group(handle)
    assert recorder.snapshot().calls[-1].group == 0
    while open_group(recorder) != handle:
        pass
    assert recorder.snapshot().calls[-1].group == 0


def test_no_limit_is_a_long_one(recorder):
    recorder.open_group(1, [0], 0, float("inf"), 1)
    assert recorder.snapshot().groups[1].timeout == 10**18


@given(st.binary(max_size=300))
def test_other_bytes_are_refused(data):
    with pytest.raises(ValueError, match="flight recorder"):
        decode(data)
    with pytest.raises(ValueError, match="flight recorder"):
        decode(data.ljust(FILE_BYTES, b"\1"))


@given(st.lists(WORD, min_size=20, max_size=60), st.randoms())
def test_half_written_words_do_not_stop_the_reader(words, random):
    """Whatever stands behind the header's first words, it is read without an error."""
    recorder = Recorder(None)
    handle = open_group(recorder)
    record(recorder, handle + COLLECTIVE, 1)
    memory = recorder._words
    for word in words:
        memory[random.randrange(4096 // 8, len(memory))] = word
    assert recorder.snapshot().rank == 0


@given(st.lists(st.integers(0, 99), unique=True))
def test_ranges(ranks):
    assert read_ranges(ranges_text(ranks)) == ranks


def test_ranges_are_short():
    assert ranges_text([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert ranges_text(range(10000)) == "0-9999"
