"""The flight recorder and its watcher, among ranks that live on."""

import sys
import time
from pathlib import Path

import pytest
from long import only_on

from hpcpar.comm.flight import Flight, open_flight

pytestmark = pytest.mark.mpi


def begin(flight: Flight, name: str, number: int) -> int:
    recorder = flight.recorder
    site = recorder.site(sys._getframe(1))
    return recorder.begin(flight.collective, recorder.operation(name), number, 8, -1, site)


def test_a_process_has_one_recorder(comm):
    first, second = open_flight(comm.mpi, 20), open_flight(comm.mpi, 30)
    assert first.recorder is second.recorder
    said = first.recorder.snapshot()
    assert (said.rank, said.size) == (comm.rank, comm.size)
    groups = [said.groups[flight._identity] for flight in (first, second)]
    assert [group.timeout for group in groups] == [20 * 10**9, 30 * 10**9]
    assert {(g.size, g.number, g.members) for g in groups} == {
        (comm.size, comm.rank, f"0-{comm.size - 1}" if comm.size > 1 else "0")
    }
    assert len({g.watch for g in groups}) == 1
    first.close()
    assert first._identity not in first.recorder.snapshot().groups
    second.close()


def test_a_communicator_is_called_the_same_on_its_ranks(comm):
    part = comm.mpi.Split(comm.rank % 2, -comm.rank)  # the other way round
    flight = open_flight(part, 20)
    group = flight.recorder.snapshot().groups[flight._identity]
    members = list(range(comm.rank % 2, comm.size, 2))[::-1]
    assert group.members == ",".join(map(str, members))
    assert group.number == part.Get_rank()
    assert len(set(part.allgather(flight._identity))) == 1
    assert len(set(comm.mpi.allgather(flight._identity))) == min(2, comm.size)
    flight.close()
    part.Free()


@pytest.mark.mpi(min_size=2)
def test_a_hang_is_told_alike_on_all_ranks(comm):
    flight = open_flight(comm.mpi, 0.3)
    absent = comm.size - 1
    told, others = None, comm.mpi.Split(int(comm.rank == absent))
    if comm.rank != absent:
        entry = begin(flight, "allreduce", 1)  # the line
        others.Barrier()  # all of them are in the call when the first asks
        told = flight.verdict("collective", 1)
        flight.recorder.give_up(entry)
    others.Free()
    told = comm.mpi.gather(told)
    if comm.rank == 0:
        stories = [each for each in told if each is not None]
        assert len({(each.sentence, each.table) for each in stories}) == 1
        assert sum(each.first for each in stories) == 1
        lines = Path(__file__).read_text().splitlines()
        line = next(n for n, text in enumerate(lines, 1) if text.endswith("# the line"))
        words = f"rank {absent} never entered allreduce #1 (test_flight.py:{line}); it is "
        assert stories[0].sentence.startswith(words)
        assert len(stories[0].table.splitlines()) == comm.size + 1
    flight.close()


@pytest.mark.mpi(min_size=2)
def test_what_is_none_of_the_watchdogs_business(comm):
    """Well over the timeout and its grace of 2 s: a request under way; on rank 0 waits that Python
    code gives up itself; on rank 1 a wait that is slow, not hung."""
    only_on(comm.size, 3, 8)  # it takes its time
    flight = open_flight(comm.mpi, 0.1)
    recorder = flight.recorder
    receive = recorder.operation("recv")
    recorder.start(flight.message, receive, 1, 8, 0, 0)
    call = recorder.start(flight.message, receive, 2, 8, 0, 0)
    if comm.rank == 1:
        recorder.wait(call)
    for number in range(1, 8):
        if comm.rank == 0:
            entry = begin(flight, "allreduce", number)
            time.sleep(0.4)
            recorder.give_up(entry)
        else:
            time.sleep(0.4)
            recorder.progress()
    recorder.finish(call)
    comm.barrier()
    flight.close()


def test_off(comm, monkeypatch):
    if comm.rank == 0:
        monkeypatch.setenv("HPCPAR_FLIGHT", "off")
    flight = open_flight(comm.mpi, 0.1)
    assert flight.folder is None and flight.recorder.descriptor is None
    entry = begin(flight, "allreduce", 1)
    assert flight.verdict("collective", 1).sentence
    flight.recorder.end(entry)
    flight.close()
