"""What the ledger counts: planned and measured bytes and messages are equal."""

import numpy as np
import pytest

from hpcpar.comm import Communicator
from hpcpar.comm.allreduce import BLOCK_BYTES
from hpcpar.comm.selection import Selection
from hpcpar.comm.transports.mpi import HostTransport
from hpcpar.schedule import collectives as schedules
from hpcpar.schedule.exchange import split
from hpcpar.schedule.one_shot import one_shot_allreduce
from hpcpar.schedule.price import Link, Network, price
from hpcpar.schedule.shared import shared_allreduce, shared_reduce_scatter

pytestmark = pytest.mark.mpi

COUNT, ITEM = 70_001, 4
SEGMENT = (1 << 20) // ITEM
NETWORK = Network(Link(1e-6, 1e9))


@pytest.fixture
def plain(comm):
    """A communicator of its own: no guard, an empty ledger."""
    with Communicator(comm.mpi, device="cpu", timeout=20) as own:
        own._selection = Selection()  # the schedules' own choice, whatever was measured here
        yield own


def planned(comm, steps_of):
    """Bytes and messages of this rank, from the schedules of all ranks and nothing else."""
    cost = price([steps_of(rank, comm.size) for rank in range(comm.size)], NETWORK, item=ITEM)
    return [
        sum(ranks[comm.rank] for ranks in kinds.values()) for kinds in (cost.bytes, cost.messages)
    ]


def runs(size):
    return tuple(len(run) for run in split(COUNT, size))


CASES = {
    "auto": (
        lambda c, x: c.allreduce(x),
        lambda r, p: schedules.allreduce(r, p, COUNT, segment=SEGMENT),
    ),
    "ring": (
        lambda c, x: c.allreduce(x, algorithm="ring"),
        lambda r, p: schedules.allreduce(r, p, COUNT, "ring", segment=SEGMENT),
    ),
    "halving": (
        lambda c, x: c.allreduce(x, algorithm="halving"),
        lambda r, p: schedules.allreduce(r, p, COUNT, "halving", segment=SEGMENT),
    ),
    "small": (lambda c, x: c.allreduce(x[:9]), lambda r, p: one_shot_allreduce(r, p, 9)),
    "bcast": (
        lambda c, x: c.bcast(x.copy()),
        lambda r, p: schedules.bcast(r, p, COUNT, segment=SEGMENT),
    ),
    "reduce": (
        lambda c, x: c.reduce(x),
        lambda r, p: schedules.reduce(r, p, COUNT, segment=SEGMENT),
    ),
    "reduce_scatter": (
        lambda c, x: c.reduce_scatter(x),
        lambda r, p: schedules.reduce_scatter(r, p, runs(p), segment=SEGMENT),
    ),
    "alltoall": (
        lambda c, x: c.alltoall(np.ones((c.size * 100,), np.float32)),
        lambda r, p: schedules.alltoall(r, p, (100,) * p, (100,) * p, segment=SEGMENT),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_planned_is_measured(plain, case):
    call, steps_of = CASES[case]
    x = np.ones(COUNT, np.float32)
    name = case if case in ("bcast", "reduce", "reduce_scatter", "alltoall") else "allreduce"
    expected = np.array(planned(plain, steps_of))
    if case == "alltoall":  # the ranks tell each other their shapes first
        headers = schedules.allgather(plain.rank, plain.size, (128,) * plain.size)
        expected += planned_of(headers)
    for calls in (1, 2, 3):  # the small one takes its short way from the second on
        call(plain, x)
        entry = plain.ledger[name]
        assert entry.calls == calls
        assert [entry.bytes, entry.messages] == list(calls * expected)


def planned_of(steps):
    """Bytes and messages of one rank's steps that are bytes."""
    sent = [len(step.span) for step in steps if type(step).__name__ == "Send"]
    return np.array([sum(sent), len(sent)])


@pytest.mark.parametrize("one_shot", [False, True])
def test_what_is_read_in_place_counts(plain, one_shot, monkeypatch):
    limit = 1 << 30 if one_shot else 0
    monkeypatch.setattr("hpcpar.comm.allreduce.ONE_SHOT_BYTES", limit)
    s = plain.symmetric(COUNT)
    plain.allreduce(s, out=s)
    block = BLOCK_BYTES // ITEM
    bytes_, _ = planned(
        plain, lambda r, p: shared_allreduce(r, p, COUNT, "x", "x", block=block, one_shot=one_shot)
    )
    assert plain.ledger["allreduce"].bytes == bytes_
    plain.reduce_scatter(s)
    bytes_, _ = planned(plain, lambda r, p: shared_reduce_scatter(r, p, runs(p), "x", block=block))
    assert plain.ledger["reduce_scatter"].bytes == bytes_


def test_every_byte_that_leaves_is_counted(plain, monkeypatch):
    """The ledger against what is really handed to MPI."""
    left = []
    send = HostTransport.send

    def counting(self, channel, span, to, tag):
        left.append(len(span))
        return send(self, channel, span, to, tag)

    monkeypatch.setattr(HostTransport, "send", counting)
    x = np.ones((plain.size * 3, 1000), np.float32)
    plain.allreduce(x)
    plain.gather(x)
    plain.scatter(x if plain.rank == 0 else None)
    plain.allgather(x[: plain.rank])
    plain.alltoall(x)
    plain.barrier()
    plain.sendrecv(x, (plain.rank + 1) % plain.size, x.copy(), (plain.rank - 1) % plain.size)
    entries = plain.ledger.entries.values()
    assert sum(entry.bytes for entry in entries) == sum(left)
    assert sum(entry.messages for entry in entries) == len(left)
