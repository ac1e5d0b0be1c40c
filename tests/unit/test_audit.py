"""Audits, as far as they are pure: whose turn it is, digests, and who is to blame."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.parallel import BatchConfig, ParallelConfig
from hpcpar.parallel.layout import Layout
from hpcpar.recovery.digest import WIDTH, digest
from hpcpar.recovery.record import ACTIVATION, BACK, GRADIENT, LOSS, Entry, first_differences
from hpcpar.recovery.turns import turn_of
from hpcpar.recovery.verdict import Attempt, judge, next_to_compute
from hpcpar.schedule.tree import deal


@st.composite
def dealt(draw):
    """Owners of leaves, and how many data-parallel ranks there are."""
    leaves, ranks = draw(st.integers(1, 24)), draw(st.integers(1, 9))
    parallel = ParallelConfig(zero=draw(st.sampled_from([0, 2])))
    layout = Layout(parallel, BatchConfig(leaves, 1, leaves), ranks)
    return layout.leaf_owners, ranks


def test_owners_of_leaves():
    batch = BatchConfig(20, 2, 5)
    runs = Layout(ParallelConfig(), batch, 3)
    assert runs.leaf_owners == [r for r, run in enumerate(deal(5, 3)) for _ in run]
    assert Layout(ParallelConfig(zero=2), batch, 3).leaf_owners == [0, 1, 2, 0, 1]


@given(dealt(), st.integers(0, 1000))
def test_every_leaf_has_its_turn(case, start):
    """So many audits as there are leaves have each once; its owner, and others than it."""
    owners, ranks = case
    turns = [turn_of(start // len(owners) * len(owners) + i, owners, ranks) for i in range(
        len(owners))]  # fmt: skip
    assert sorted(turn.leaf for turn in turns) == list(range(len(owners)))
    for turn in turns:
        assert turn.owner == owners[turn.leaf]
        assert all(0 <= rank < ranks for rank in (turn.auditor, turn.third))
        apart = {turn.owner, turn.auditor, turn.third}
        assert len(apart) == min(ranks, 3)
        assert ranks == 1 or turn.auditor != turn.owner


@given(dealt())
def test_every_rank_is_audited_soon_and_by_all(case):
    owners, ranks = case
    turns = [turn_of(i, owners, ranks) for i in range(len(owners) * max(1, ranks - 1))]
    working = set(owners)
    assert {turn.owner for turn in turns[: len(working)]} == working
    pairs = {(turn.leaf, turn.auditor) for turn in turns}
    others = {(leaf, r) for leaf, owner in enumerate(owners) for r in range(ranks) if r != owner}
    assert pairs == (others or {(leaf, 0) for leaf in range(len(owners))})


SIZES = st.one_of(st.integers(1, 40), st.integers(WIDTH - 3, WIDTH + 3), st.integers(1, 5 * WIDTH))


@given(SIZES, st.integers(0, 2**32), st.data())
def test_every_change_of_one_or_two_bits_is_seen(size, seed, data):
    words = np.random.default_rng(seed).integers(0, 2**32, size, np.uint32)
    before = digest(words.view(np.float32)).tolist()
    bits = st.tuples(st.integers(0, size - 1), st.integers(0, 31))
    for word, bit in data.draw(st.lists(bits, min_size=1, max_size=2, unique=True)):
        words[word] ^= np.uint32(1 << bit)
    assert digest(words.view(np.float32)).tolist() != before


@pytest.mark.parametrize("size", [1, WIDTH, WIDTH + 1])
def test_each_single_bit_of_an_array(size):
    words = np.random.default_rng(size).integers(0, 2**32, size, np.uint32)
    before = digest(words).tolist()
    for word in range(size):
        for bit in range(0, 32, 1 if size == 1 else 5):
            words[word] ^= np.uint32(1 << bit)
            assert digest(words).tolist() != before
            words[word] ^= np.uint32(1 << bit)
    assert digest(words).tolist() == before


@given(SIZES, st.integers(0, 2**32))
def test_the_digest_is_what_it_says(size, seed):
    """Against whole numbers without limit, one by one."""
    words = np.random.default_rng(seed).integers(0, 2**32, size, np.uint32)
    first = sum((2 * (k // WIDTH) + 1) * int(word) for k, word in enumerate(words))
    second = sum((2 * (k % WIDTH) + 1) * int(word) for k, word in enumerate(words))
    assert digest(words.view(np.float32)).tolist() == [first % 2**64, second % 2**64]


def test_the_digest_of_a_large_array():
    """Its sums are taken modulo 2^64, without a word on standard error."""
    words = np.full(3_000_000, 2**32 - 1, np.uint32)
    rows = [WIDTH] * (len(words) // WIDTH) + [len(words) % WIDTH]
    first = (2**32 - 1) * sum((2 * i + 1) * count for i, count in enumerate(rows))
    columns = [len(rows) - (j >= rows[-1]) for j in range(WIDTH)]
    second = (2**32 - 1) * sum((2 * j + 1) * count for j, count in enumerate(columns))
    assert first > 2**64
    assert digest(words).tolist() == [first % 2**64, second % 2**64]


def test_swapped_words_and_signs_of_zero_are_seen():
    array = np.arange(3000, dtype=np.float32)
    before = digest(array).tolist()
    array[[5, 2000]] = array[[2000, 5]]
    assert digest(array).tolist() != before
    assert digest(np.array([0.0])).tolist() != digest(np.array([-0.0])).tolist()


def record(*wrong):
    """Three stages (places), two micro-batches, a bucket a stage; other digests where `wrong`."""
    entries = [Entry(place, GRADIENT, 0, 0) for place in range(3)]
    for micro in (4, 5):
        entries += [Entry(p, ACTIVATION, p, micro) for p in (0, 1)]
        entries += [Entry(2, LOSS, 0, micro)] + [Entry(p, BACK, p, micro) for p in (2, 1)]
    assert all(entry in entries for entry in wrong)
    return {entry: (1, int(entry in wrong)) for entry in entries}


GRADIENTS = [Entry(place, GRADIENT, 0, 0) for place in range(3)]


@pytest.mark.parametrize(
    ("wrong", "places"),
    [
        ([GRADIENTS[1]], (1,)),
        ([GRADIENTS[0], GRADIENTS[2]], (0, 2)),
        ([Entry(1, ACTIVATION, 1, 4), Entry(2, LOSS, 0, 4), *GRADIENTS], (1,)),
        ([Entry(2, LOSS, 0, 5), Entry(2, BACK, 2, 5), Entry(1, BACK, 1, 5), *GRADIENTS], (2,)),
        ([Entry(1, BACK, 1, 5), *GRADIENTS[:2]], (1,)),
        ([Entry(2, BACK, 2, 5), Entry(1, BACK, 1, 5), *GRADIENTS[:2]], (2,)),
        ([Entry(0, ACTIVATION, 0, 4), Entry(1, BACK, 1, 5)], (0, 1)),
    ],
)
def test_the_first_stage_that_differs_is_to_blame(wrong, places):
    found = first_differences(record(), record(*wrong))
    assert found.places == places == first_differences(record(*wrong), record()).places
    assert set(found.buckets) == {(p, 0) for p in places if GRADIENTS[p] in wrong}


FAULTS = ["none", "passing", "lasting"]


@given(
    st.integers(1, 9), st.integers(1, 16), st.integers(0, 500), st.sampled_from(FAULTS), st.data()
)
def test_who_is_wrong(ranks, leaves, number, fault, data):
    """Any rank, wrong in the first of its attempts or in all: named, as far as it can be known."""
    owners = Layout(ParallelConfig(), BatchConfig(leaves, 1, leaves), ranks).leaf_owners
    turn = turn_of(number, owners, ranks)
    faulty = data.draw(st.integers(0, ranks - 1)) if fault != "none" else -1
    tries = dict.fromkeys(range(ranks), 0)

    def attempt(rank):
        tries[rank] += 1
        wrong = rank == faulty and (fault == "lasting" or tries[rank] == 1)
        return Attempt(rank, record(*GRADIENTS[1:2]) if wrong else record())

    attempts = [attempt(turn.owner), attempt(turn.auditor)]
    while (rank := next_to_compute(attempts, turn)) is not None:
        attempts.append(attempt(rank))
    verdict, involved = judge(attempts), faulty in (turn.owner, turn.auditor)
    if not involved or (ranks == 1 and fault == "lasting"):
        assert verdict is None and len(attempts) == 2
    elif ranks == 2 and fault == "lasting":
        assert not verdict.decided and verdict.lasting and len(verdict.wrong) == 2
    else:
        assert [rank for rank, *_ in verdict.wrong] == [faulty]
        assert verdict.decided and verdict.lasting == (fault == "lasting")
        assert all(own != other for _, own, other in verdict.wrong)
    assert len(attempts) <= 4


def test_three_that_differ_are_all_named():
    turn = turn_of(0, [0, 1, 2], 3)
    attempts = [Attempt(rank, record(GRADIENTS[rank])) for rank in range(3)]
    assert next_to_compute(attempts, turn) is None
    verdict = judge(attempts)
    assert not verdict.decided and verdict.lasting
    assert [rank for rank, *_ in verdict.wrong] == [0, 1, 2]
