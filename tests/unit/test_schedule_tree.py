"""The shape of the tree, who gets which leaves, and the order in which roots are added."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.schedule import Node, check, combine_plan, deal, simulate, subtrees, tree_allreduce
from hpcpar.schedule.steps import extents
from hpcpar.schedule.tree import roots


def spell(start: int, stop: int, leaves: int) -> str:
    """The sum of the leaves under [start, stop), written out: the reference, by recursion."""
    if stop - start == 1:
        return str(start)
    middle = (start + stop) // 2
    left = spell(start, middle, leaves)
    return f"({left}+{spell(middle, stop, leaves)})" if middle < leaves else left


def whole(leaves: int) -> str:
    return spell(0, 1 << (leaves - 1).bit_length(), leaves)


def spelled(node: Node, leaves: int) -> str:
    return spell(node.index << node.level, (node.index + 1) << node.level, leaves)


@st.composite
def dealt(draw, most=40):
    """A tree and any cut of its leaves into runs, empty ones too."""
    leaves = draw(st.integers(1, most))
    cuts = sorted(draw(st.lists(st.integers(0, leaves), max_size=9)))
    return leaves, [range(a, b) for a, b in itertools.pairwise([0, *cuts, leaves])]


@given(dealt())
def test_subtrees_cover_their_run_and_are_maximal(case):
    leaves, runs = case
    for run in runs:
        nodes = subtrees(run.start, run.stop, leaves)
        assert [leaf for node in nodes for leaf in node.leaves(leaves)] == list(run)
        assert roots(run.start, run.stop, leaves) == len(nodes)
        for left, right in itertools.pairwise(nodes):
            siblings = left.level == right.level and left.index ^ 1 == right.index
            assert not siblings, "two siblings are one subtree"


def test_subtree_at_the_edge_is_complete():
    assert subtrees(0, 5, 5) == [Node(3, 0)]
    assert subtrees(4, 5, 5) == [Node(2, 1)]
    assert subtrees(0, 3, 6) == [Node(1, 0), Node(0, 2)]
    assert subtrees(2, 2, 6) == []
    with pytest.raises(ValueError, match="no run"):
        subtrees(3, 7, 6)


@given(dealt())
def test_combine_plan_spells_the_tree(case):
    leaves, runs = case
    nodes = [node for run in runs for node in subtrees(run.start, run.stop, leaves)]
    words = [spelled(node, leaves) for node in nodes]
    for into, left, right in combine_plan(nodes, leaves):
        words[into] = f"({words[left]}+{words[right]})"
    assert words[0] == whole(leaves)


def test_combine_plan_accepts_lower_names_of_a_subtree():
    assert combine_plan([Node(2, 0), Node(0, 4)], 5) == [(0, 0, 1)]


@pytest.mark.parametrize("nodes", [[Node(0, 0)], [Node(0, 1)], [Node(1, 0), Node(1, 0)]])
def test_combine_plan_refuses_gaps(nodes):
    with pytest.raises(ValueError, match="root"):
        combine_plan(nodes, 4)


@given(st.integers(0, 12), st.integers(1, 6))
def test_deal_has_the_fewest_roots(leaves, ranks):
    def total(runs):
        return sum(roots(run.start, run.stop, leaves) for run in runs)

    runs = deal(leaves, ranks)
    lengths = [len(run) for run in runs]
    assert [leaf for run in runs for leaf in run] == list(range(leaves))
    assert max(lengths) - min(lengths) <= 1
    low, longer = divmod(leaves, ranks)
    best = min(
        total(
            [range(stop - n, stop) for n, stop in zip(cut, itertools.accumulate(cut), strict=True)]
        )
        for ups in itertools.combinations(range(ranks), longer)
        for cut in [[low + (r in ups) for r in range(ranks)]]
    )
    assert total(runs) == best


@given(st.integers(0, 60), st.lists(st.floats(0, 5), min_size=1, max_size=9).filter(sum))
def test_deal_by_weight_gives_each_its_share(leaves, weights):
    runs = deal(leaves, len(weights), weights)
    assert [leaf for run in runs for leaf in run] == list(range(leaves))
    for run, weight in zip(runs, weights, strict=True):
        assert abs(len(run) - leaves * weight / sum(weights)) < 1 + 1e-9


def test_deal_beyond_the_leaves_is_empty():
    assert [len(run) for run in deal(3, 5)] == [1, 1, 1, 0, 0]


@pytest.mark.parametrize(("leaves", "ranks"), [(4608, 1024), (4096, 1000), (1024, 4096)])
def test_deal_is_fast(leaves, ranks):
    start = time.perf_counter()
    deal(leaves, ranks)
    assert time.perf_counter() - start < 5  # 0.13 s where it was written


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0]])
def test_deal_refuses_weights(weights):
    with pytest.raises(ValueError, match="weights"):
        deal(4, 2, weights)


def sums(leaves, runs, count, segment):
    """tree_allreduce of float32 leaves over simulated ranks: every rank's result."""
    values = np.random.default_rng(leaves * 1000 + count).standard_normal((leaves, count))
    values = (values * 10.0 ** (np.arange(leaves) % 9 - 4)[:, None]).astype(np.float32)

    def subtree(start, stop):
        if stop - start == 1:
            return values[start]
        middle = (start + stop) // 2
        left = subtree(start, middle)
        return left + subtree(middle, stop) if middle < leaves else left

    schedules = [
        tree_allreduce(rank, len(runs), count, runs, leaves, segment=segment)
        for rank in range(len(runs))
    ]
    check(schedules)
    buffers = []
    for run, steps in zip(runs, schedules, strict=True):
        own = {name: np.full(n, np.nan, np.float32) for name, n in extents(steps).items()}
        own["out"] = np.full(count, np.nan, np.float32)
        for i, node in enumerate(subtrees(run.start, run.stop, leaves)):
            own[f"root{i}"] = subtree(
                node.index << node.level, (node.index + 1) << node.level
            ).copy()
        buffers.append(own)
    roots_before = [{k: v.copy() for k, v in own.items() if k[:4] == "root"} for own in buffers]
    simulate(schedules, buffers, np.add)
    for own, before in zip(buffers, roots_before, strict=True):
        assert all(np.array_equal(own[name], before[name]) for name in before)
    expected = subtree(0, 1 << (leaves - 1).bit_length())
    return [own["out"] for own in buffers], expected


@pytest.mark.parametrize("ranks", range(1, 18))
@pytest.mark.parametrize("count", [0, 1, 7, 1009])
def test_tree_allreduce_has_the_bits_of_one_rank(ranks, count):
    for leaves in {3, ranks, 16, 21}:
        results, expected = sums(leaves, deal(leaves, ranks), count, segment=64)
        assert all(np.array_equal(result, expected) for result in results)


@given(dealt(21), st.integers(0, 700), st.integers(1, 100))
def test_tree_allreduce_of_any_runs(case, count, segment):
    leaves, runs = case
    results, expected = sums(leaves, runs, count, segment)
    assert all(np.array_equal(result, expected) for result in results)


def test_tree_allreduce_remembers():
    runs = deal(16, 3)
    first = tree_allreduce(1, 3, 100_000, runs, 16)
    assert tree_allreduce(1, 3, 100_000, list(runs), 16) is first
    with pytest.raises(ValueError, match="rank 3 of 3"):
        tree_allreduce(3, 3, 1, runs, 16)
