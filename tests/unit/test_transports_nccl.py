"""The schedules by NCCL's rules: groups go one after the other, and match by their order alone.

That is stricter than what schedules are proved for (schedule/check.py): there a step waits for the
transfers it needs, here each group waits for the whole one before. So those that go by NCCL are run
here. The hierarchical ones would wait in a circle.
"""

import os
from itertools import product

import numpy as np
import pytest
from late_gpu import LateGpu
from late_nccl import LateNccl
from virtual_gpu import Clock, Speeds, VirtualLink, a_call

from hpcpar.comm.perform import Bound, Programs, Scratch, perform
from hpcpar.comm.transports.nccl import NcclTransport
from hpcpar.errors import HangError
from hpcpar.schedule import collectives
from hpcpar.schedule.exchange import split

SIZES = (1, 2, 3, 4, 5, 8, 13)
COUNTS = (0, 1, 3, 40, 101)
SEGMENT = 5  # elements: many pieces
ROUNDS = 20_000


class SetUp:
    """The communicator that NCCL is set up by, of one rank."""

    def __init__(self, rank, size, cards=None):
        self.rank, self.size, self.cards = rank, size, cards

    def Get_rank(self):
        return self.rank

    def Get_size(self):
        return self.size

    def allgather(self, card):
        return self.cards or [f"card {rank}" for rank in range(self.size)]

    def bcast(self, thing):
        return thing if self.rank == 0 else (bytes(range(128)), "")


def run(schedules, buffers, haste=0):
    """Perform the ranks' schedules; what each rank's NCCL was asked for."""
    clock, size = Clock(), len(schedules)
    link = VirtualLink(clock, Speeds(np.inf, np.inf, np.inf, 0))
    works, modules = [], []
    for rank, (steps, arrays) in enumerate(zip(schedules, buffers, strict=True)):
        nccl = LateNccl(link.channel(rank))
        transport = NcclTransport(LateGpu(haste, late=1), SetUp(rank, size), nccl, 5)
        bound = Bound(Programs()[steps], arrays, "add", transport, Scratch())
        works.append(perform(a_call(), bound, transport, None))
        modules.append(nccl)
    for _ in range(ROUNDS):
        works = [work for work in works if next(work, "over") != "over"]
        if not works:
            return modules
    raise AssertionError(f"{len(works)} of {size} ranks wait in a circle")


def brought(rank, count):
    return np.arange(count, dtype=np.int64) * (rank + 1) + 1000 * rank


def filled(size, count):
    return [np.full(count, -1) for _ in range(size)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("algorithm", ["auto", "ring", "halving", "direct"])
def test_allreduce(size, algorithm):
    for count in COUNTS:
        x, out = [brought(rank, count) for rank in range(size)], filled(size, count)
        steps = [
            collectives.allreduce(rank, size, count, algorithm, segment=SEGMENT)
            for rank in range(size)
        ]
        run(steps, [{"x": x[rank], "out": out[rank]} for rank in range(size)])
        assert all(np.array_equal(part, sum(x)) for part in out)


@pytest.mark.parametrize("size", SIZES)
def test_reduce(size):
    for count, root in product(COUNTS, {0, size // 2, size - 1}):
        x, out = [brought(rank, count) for rank in range(size)], np.full(count, -1)
        steps = [collectives.reduce(r, size, count, root, segment=SEGMENT) for r in range(size)]
        run(steps, [{"x": x[r]} | ({"out": out} if r == root else {}) for r in range(size)])
        assert np.array_equal(out, sum(x))


@pytest.mark.parametrize("size", SIZES)
def test_reduce_scatter(size):
    for count in COUNTS:
        lengths = tuple(map(len, split(count, size)))
        x, parts = (
            [brought(rank, count) for rank in range(size)],
            [np.empty(n, int) for n in lengths],
        )
        steps = [collectives.reduce_scatter(r, size, lengths, segment=SEGMENT) for r in range(size)]
        run(steps, [{"x": x[r], "out": parts[r]} for r in range(size)])
        assert np.array_equal(np.concatenate(parts), sum(x))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("algorithm", ["tree", "chain"])
def test_bcast(size, algorithm):
    for count, root in product(COUNTS, {0, size // 2, size - 1}):
        x = [brought(rank, count) for rank in range(size)]
        steps = [
            collectives.bcast(r, size, count, root, algorithm, segment=SEGMENT) for r in range(size)
        ]
        run(steps, [{"x": part} for part in x])
        assert all(np.array_equal(part, brought(root, count)) for part in x)


@pytest.mark.parametrize("size", SIZES)
def test_gather_scatter_and_allgather(size):
    counts = tuple((7 * rank) % 11 for rank in range(size))  # an empty one among them
    mine = [brought(rank, counts[rank]) for rank in range(size)]
    whole, root = np.concatenate(mine), size - 1
    out = filled(size, len(whole))
    steps = [collectives.allgather(r, size, counts, segment=SEGMENT) for r in range(size)]
    run(steps, [{"x": mine[r], "out": out[r]} for r in range(size)])
    assert all(np.array_equal(part, whole) for part in out)

    steps = [collectives.gather(r, size, counts, root, segment=SEGMENT) for r in range(size)]
    out = np.full(len(whole), -1)
    run(steps, [{"x": mine[r]} | ({"out": out} if r == root else {}) for r in range(size)])
    assert np.array_equal(out, whole)

    steps = [collectives.scatter(r, size, counts, root, segment=SEGMENT) for r in range(size)]
    parts = [np.full(count, -1) for count in counts]
    run(steps, [{"out": parts[r]} | ({"x": whole} if r == root else {}) for r in range(size)])
    assert all(map(np.array_equal, parts, mine))


@pytest.mark.parametrize("size", SIZES)
def test_alltoall(size):
    to_each = [tuple((r + 2 * j) % 8 for j in range(size)) for r in range(size)]
    from_each = [tuple(to_each[j][r] for j in range(size)) for r in range(size)]
    x = [brought(r, sum(to_each[r])) for r in range(size)]
    out = [np.full(sum(from_each[r]), -1) for r in range(size)]
    steps = [
        collectives.alltoall(r, size, to_each[r], from_each[r], segment=SEGMENT)
        for r in range(size)
    ]
    run(steps, [{"x": x[r], "out": out[r]} for r in range(size)])
    cut = [np.split(x[r], np.cumsum(to_each[r])[:-1]) for r in range(size)]
    for rank in range(size):
        assert np.array_equal(out[rank], np.concatenate([cut[j][rank] for j in range(size)]))


def test_consecutive_transfers_are_one_group():
    size, count = 4, 4 * SEGMENT
    x = [brought(rank, count) for rank in range(size)]
    steps = [collectives.allgather(r, size, (count,) * size, segment=1000) for r in range(size)]
    out = [np.empty(size * count, np.int64) for _ in range(size)]
    modules = run(steps, [{"x": x[r], "out": out[r]} for r in range(size)])
    assert all(nccl.groups == [2 * (size - 1)] for nccl in modules)


def make(problem="", size=1, cards=None):
    nccl = LateNccl(None)
    nccl.problem = problem
    return NcclTransport(LateGpu(), SetUp(0, size, cards), nccl, 0.2)


def test_what_nccl_says_at_the_start_is_said():
    with pytest.raises(RuntimeError, match="NCCL cannot start: no device"):
        make("no device")


@pytest.mark.parametrize("cards", [["a", "b"], ["a", "a"]])
def test_only_where_ranks_share_a_card_nccl_is_told_so(monkeypatch, cards):
    for name in ("NCCL_MULTI_RANK_GPU_ENABLE", "NCCL_NVLS_ENABLE"):
        monkeypatch.setenv(name, "kept")
        monkeypatch.delenv(name)
    make(size=2, cards=cards)
    shared = cards[0] == cards[1]
    assert os.environ.get("NCCL_MULTI_RANK_GPU_ENABLE") == ("1" if shared else None)
    assert os.environ.get("NCCL_NVLS_ENABLE") == ("0" if shared else None)


def test_a_rank_that_never_comes_is_a_hang(monkeypatch):
    monkeypatch.setattr("late_nccl.Comm.get_async_error", lambda self: 7)
    with pytest.raises(HangError, match=r"did not connect the ranks in 0\.2 s"):
        make()


def test_an_error_on_the_way_is_raised(monkeypatch):
    transport = make()
    transport._comm.state = 6
    mark = transport.end()
    with pytest.raises(RuntimeError, match="NCCL: error 6"):
        transport.ended(mark)
    transport.abort()
    assert transport._comm is None


def test_calls_come_to_the_card_in_their_order():
    transport, order = make(), []

    def work(number, steps):
        for _ in range(steps):
            yield
        order.append(number)
        return number

    works = [transport.in_turn(a_call(n), work(n, 4 - n)) for n in (1, 2, 3)]
    for work_ in works:
        next(work_)
    results = {}
    while len(results) < 3:
        for number in (3, 2, 1):
            try:
                next(works[number - 1])
            except StopIteration as end:
                results.setdefault(number, end.value)
    assert order == [1, 2, 3] and results == {1: 1, 2: 2, 3: 3}
