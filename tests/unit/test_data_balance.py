"""Uneven items dealt evenly; batches with the classes of the whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.data import DataConfig, Part, Sampler, make_sampler
from hpcpar.data.balance import (
    compose,
    deal,
    deal_evenly,
    imbalance,
    largest_differencing,
    longest_first,
)
from hpcpar.data.documents import squared_lengths
from hpcpar.data.stratified import StratifiedSampler, shares

DISTRIBUTIONS = {
    "uniform": lambda random, n: random.integers(1, 2000, n),
    "log-normal": lambda random, n: np.ceil(random.lognormal(6, 1, n)),
    "pareto": lambda random, n: np.ceil(100 * (1 + random.pareto(1.5, n))),
    "bimodal": lambda random, n: np.where(
        random.random(n) < 0.8, random.integers(100, 300, n), random.integers(2000, 3000, n)
    ),
    "geometric": lambda random, n: random.geometric(1 / 500, n),
}
lengths = {
    "name": st.sampled_from(sorted(DISTRIBUTIONS)),
    "ranks": st.integers(2, 64),
    "each": st.integers(16, 24),
    "seed": st.integers(0, 10_000),
}


def least(costs, ranks, each):
    """What no deal of `each` items a rank can go below, over the mean.

    The largest goes with as many of the smallest, and j + 1 of the first j * ranks + 1 are on one.
    """
    falling = np.sort(costs)[::-1]
    crowded = [falling[at - at // ranks : at + 1].sum() for at in range(0, len(costs), ranks)]
    alone = falling[0] + falling[len(costs) - each + 1 :].sum()
    return max(costs.sum() / ranks, alone, *crowded) / costs.sum() * ranks


def assert_dealt(groups, count):
    assert sorted(item for group in groups for item in group) == list(range(count))
    assert all(group == sorted(group) for group in groups)


@given(**lengths, square=st.sampled_from([0, 1 / 1536, 1 / 200]))
def test_dealt_within_two_hundredths_of_even(name, ranks, each, seed, square):
    """Or to where one document costs more than a rank's share: then that is the largest."""
    tokens = DISTRIBUTIONS[name](np.random.default_rng(seed), ranks * each).astype(float)
    costs = tokens + square * tokens**2
    groups = deal(costs, ranks)
    assert_dealt(groups, len(costs))
    largest = costs.max() / costs.mean() / each
    assert imbalance(costs, groups) <= max(1.02, largest * (1 + 1e-9))
    assert deal(costs.tolist(), ranks) == groups


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 9))
def test_no_deal_is_worse_than_either_method(costs, ranks):
    both = [method(costs, ranks) for method in (longest_first, largest_differencing)]
    for groups in both:
        assert_dealt(groups, len(costs))
    best = min(imbalance(costs, groups) for groups in both)
    assert imbalance(costs, deal(costs, ranks)) <= max(best, 1.001)


@given(**lengths)
def test_dealt_evenly_in_number_too(name, ranks, each, seed):
    costs = DISTRIBUTIONS[name](np.random.default_rng(seed), ranks * each).astype(float)
    groups = deal_evenly(costs, ranks)
    assert_dealt(groups, len(costs))
    assert {len(group) for group in groups} == {each}
    assert imbalance(costs, groups) <= 1.02 * least(costs, ranks, each)


def test_textbook_examples():
    """Graham's own worst case; and one in which differencing is the better of the two."""
    assert longest_first([3, 3, 2, 2, 2], 2) == [[0, 2, 4], [1, 3]]
    assert imbalance([5, 5, 4, 4, 3, 3, 3], longest_first([5, 5, 4, 4, 3, 3, 3], 3)) == 11 / 9
    items = [8, 7, 6, 5, 4]
    assert imbalance(items, longest_first(items, 2)) == 17 / 15
    assert imbalance(items, largest_differencing(items, 2)) == 16 / 15
    assert deal(items, 2) == largest_differencing(items, 2)


def test_ties_go_by_number():
    assert deal([1.0] * 6, 3) == [[0, 3], [1, 4], [2, 5]]
    assert deal_evenly([1.0] * 6, 3) == [[0, 3], [1, 4], [2, 5]]
    assert deal([], 2) == [[], []] and imbalance([], [[], []]) == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: deal([1, -1], 2), "at least 0"),
        (lambda: deal([1, np.nan], 2), "at least 0"),
        (lambda: deal([1], 0), "not 0"),
        (lambda: deal_evenly([1, 2, 3], 2), "3 items cannot be dealt evenly to 2"),
    ],
)
def test_what_cannot_be_dealt(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@given(
    leaves=st.integers(1, 9), runs=st.integers(1, 4), micro=st.integers(1, 4), seed=st.integers(0)
)
def test_composed_batches_have_the_same_samples(leaves, runs, micro, seed):
    costs = np.random.default_rng(seed).integers(1, 1000, leaves * runs * micro)
    order = compose(costs, micro, leaves)
    assert sorted(order) == list(range(len(costs)))
    sums = costs[order].reshape(-1, micro).sum(axis=1)
    assert sums.max() <= costs.reshape(-1, micro).sum(axis=1).max()


class Pieces(Part):
    """Samples of 64 tokens that are cut into documents at random."""

    targets_per_sample = 64

    def __len__(self):
        return 300

    def batch(self, indices):
        raise NotImplementedError

    def documents(self, indices):
        cuts = np.random.default_rng(1).random((300, 64)) < np.linspace(0, 0.3, 300)[:, None]
        return np.cumsum(cuts, axis=1)[indices]


def test_micro_batches_cost_the_same():
    """All of a step's, and each leaf; the samples of a step stay."""
    part = Pieces()
    plain, balanced = (
        make_sampler(part, DataConfig(documents=True, balance=balance), 64, 8, 4, 3)
        for balance in (False, True)
    )
    worst = []
    for sampler in (plain, balanced):
        ratios = []
        for step in range(12):
            costs = squared_lengths(part.documents(sampler.indices(step)))
            for size in (8, 16):
                sums = costs.reshape(-1, size).sum(axis=1)
                ratios.append(sums.max() / sums.mean())
        worst.append(max(ratios))
    assert worst[0] > 1.5 and worst[1] < 1.05, worst
    for step in range(12):
        assert sorted(plain.indices(step)) == sorted(balanced.indices(step))
        assert plain.state(step) == balanced.state(step)


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    batch=st.integers(1, 50),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_stratified_batches(counts, batch, epochs, seed):
    classes = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    total, sampler = len(classes), StratifiedSampler(classes * 7, batch, seed)
    dealt = np.concatenate([sampler.indices(s) for s in range(-(-total * epochs // batch))])
    for epoch in range(epochs):
        mine = dealt[epoch * total : (epoch + 1) * total]
        assert sorted(mine) == list(range(total))
    for stop in range(batch, len(dealt) + 1, batch):
        found = np.bincount(classes[dealt[stop - batch : stop]], minlength=len(counts))
        # One is rounded away, and one is what was owed; twice where an epoch ends in the batch.
        assert (np.abs(found - batch * np.array(counts) / total) < 4).all()
        so_far = np.bincount(classes[dealt[:stop]], minlength=len(counts))
        assert (np.abs(so_far - stop * np.array(counts) / total) <= 1.5).all()


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(1, 50))
def test_shares_of_classes(counts, size):
    total, counts = sum(counts), np.array(counts)
    sizes = np.diff([*range(0, total, size), total])
    table = shares(counts, sizes.tolist())
    assert (table >= 0).all()
    assert table.sum(axis=1).tolist() == sizes.tolist()
    assert (table.sum(axis=0) == counts).all()


def test_even_shares_are_exact():
    assert shares(np.array([50, 50, 50]), [30] * 5).tolist() == [[10, 10, 10]] * 5
    assert shares(np.array([6, 3]), [3, 3, 3]).tolist() == [[2, 1]] * 3
    assert shares(np.array([1, 1, 1]), [1, 2]).tolist() == [[1, 0, 0], [0, 1, 1]]


def test_ranks_have_the_classes_of_the_batch():
    classes = np.repeat([0, 1, 2], [320, 160, 160])
    sampler = StratifiedSampler(classes, 64, 5)
    for step in range(10):
        for run in sampler.indices(step).reshape(4, 16):
            assert np.abs(np.bincount(classes[run], minlength=3) - [8, 4, 4]).max() <= 2


def test_strata_are_shuffled_anew():
    classes = np.repeat([0, 1], 30)
    orders = {
        tuple(StratifiedSampler(classes, 60, seed).indices(epoch))
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 4


def test_samplers_without_what_they_need():
    class Plain(Pieces):
        def documents(self, indices):
            return None

    assert type(make_sampler(Plain(), DataConfig(), 8, 2, 2, 0)) is Sampler
    with pytest.raises(ValueError, match="no documents"):
        make_sampler(Plain(), DataConfig(balance=True), 8, 2, 2, 0).indices(0)
    with pytest.raises(ValueError, match="no classes"):
        make_sampler(Plain(), DataConfig(stratify=True), 8, 2, 2, 0)
