"""Schedules over nodes: results, bits, the bytes that cross between nodes, freedom of deadlock."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.schedule import Send, check, simulate, subtrees, tree_allreduce
from hpcpar.schedule import collectives as schedules
from hpcpar.schedule.exchange import split
from hpcpar.schedule.groups import consecutive, groups_of, shares
from hpcpar.schedule.steps import extents

MAPS = [
    (0,),
    (0, 0),
    (0, 1),
    (0, 0, 0, 1),
    (0, 1, 1, 1),
    (0, 0, 1, 1),
    (0, 1, 0, 1),
    (5, 5, 2, 2, 2, 9),
    (0, 1, 2, 3, 4),
    (0, 0, 0, 1, 1, 1, 1, 1),
    (0, 1, 2, 0, 1, 2, 0, 1),
    (0,) * 4 + (1,) * 4 + (2,) * 4 + (3,) * 4,
    (0,) * 5 + (1,) * 7 + (2,) * 5,
    (0, 1, 1, 0, 2, 2, 2, 0, 1, 3, 3, 3, 3, 3, 0, 1, 2),
]
COUNTS = [0, 1, 4099, 30_011]
SEGMENT = 1009


def play(steps, given, op=np.add):
    """Check and run the schedules of all ranks; the buffers afterwards."""
    check(steps)
    buffers = []
    for own, brings in zip(steps, given, strict=True):
        buffers.append({name: np.full(n, np.nan) for name, n in extents(own).items()} | brings)
    simulate(steps, buffers, op)
    return buffers


def brought(size, count):
    return np.random.default_rng(count).standard_normal((size, count))


def tree(parts):
    while len(parts) > 1:
        pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
        parts = [pair[0] + pair[1] if len(pair) == 2 else pair[0] for pair in pairs]
    return parts[0]


def in_node_order(nodes, parts):
    return [parts[rank] for group in groups_of(nodes) for rank in group]


@pytest.mark.parametrize("nodes", MAPS)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("source", ["x", "out"])
def test_allreduce_has_the_bits_of_the_tree(nodes, count, source):
    x, size = brought(len(nodes), count), len(nodes)
    after = play(
        [
            schedules.allreduce(
                rank, size, count, "hierarchical", source, segment=SEGMENT, nodes=nodes
            )
            for rank in range(size)
        ],
        [{"out": np.full(count, np.nan)} | {source: mine.copy()} for mine in x],
    )
    expected = tree(in_node_order(nodes, list(x)))
    if consecutive(nodes):
        assert np.array_equal(expected, tree(list(x)))
    for own, mine in zip(after, x, strict=True):
        assert np.array_equal(own["out"], expected)
        assert source == "out" or np.array_equal(own["x"], mine)


@pytest.mark.parametrize("size", range(1, 18))
@pytest.mark.parametrize("local", [1, 2, 3, 8])
def test_every_number_of_ranks_in_nodes_of_some(size, local):
    nodes = tuple(rank // local for rank in range(size))
    x = brought(size, 5003)
    after = play(
        [
            schedules.allreduce(rank, size, 5003, "hierarchical", segment=SEGMENT, nodes=nodes)
            for rank in range(size)
        ],
        [{"x": mine, "out": np.full(5003, np.nan)} for mine in x],
    )
    assert all(np.array_equal(own["out"], tree(list(x))) for own in after)


@pytest.mark.parametrize("size", [*range(1, 18), 33, 63])
def test_halving_with_many_cuts(size):
    """So many elements that what two ranks both own is cut in all rounds."""
    x, count = brought(size, 40_009), 40_009
    after = play(
        [
            schedules.allreduce(rank, size, count, "halving", segment=SEGMENT)
            for rank in range(size)
        ],
        [{"x": mine, "out": np.full(count, np.nan)} for mine in x],
    )
    assert all(np.array_equal(own["out"], tree(list(x))) for own in after)


@st.composite
def layouts(draw):
    """Leaves, a run for each rank (empty ones too), nodes of consecutive ranks."""
    leaves = draw(st.integers(1, 24))
    cuts = sorted(draw(st.lists(st.integers(0, leaves), max_size=8)))
    runs = [range(a, b) for a, b in itertools.pairwise([0, *cuts, leaves])]
    edges = draw(st.lists(st.booleans(), min_size=len(runs) - 1, max_size=len(runs) - 1))
    return leaves, runs, tuple(itertools.accumulate([0, *edges]))


@given(layouts(), st.integers(0, 4000), st.integers(40, 900), st.sampled_from(["hier", "halving"]))
def test_tree_allreduce_of_any_runs_on_any_nodes(layout, count, segment, algorithm):
    leaves, runs, nodes = layout
    values = np.random.default_rng(leaves * 1000 + count).standard_normal((leaves, count))

    def subtree(start, stop):
        if stop - start == 1:
            return values[start]
        middle = (start + stop) // 2
        left = subtree(start, middle)
        return left + subtree(middle, stop) if middle < leaves else left

    algorithm = "hierarchical" if algorithm == "hier" else algorithm
    steps = [
        tree_allreduce(
            r, len(runs), count, runs, leaves, segment=segment, algorithm=algorithm, nodes=nodes
        )
        for r in range(len(runs))
    ]
    given_ = []
    for run in runs:
        own = {"out": np.full(count, np.nan)}
        for i, node in enumerate(subtrees(run.start, run.stop, leaves)):
            covers = node.index << node.level, (node.index + 1) << node.level
            own[f"root{i}"] = subtree(*covers).copy()
        given_.append(own)
    expected = subtree(0, 1 << (leaves - 1).bit_length())
    assert all(np.array_equal(own["out"], expected) for own in play(steps, given_))


def test_scattered_nodes_do_not_change_the_bits_of_a_tree_sum():
    runs = [range(0, 3), range(3, 6), range(6, 7), range(7, 9)]
    for rank in range(4):
        flat = tree_allreduce(rank, 4, 10_000, runs, 9)
        assert tree_allreduce(rank, 4, 10_000, runs, 9, nodes=(0, 1, 0, 1)) == flat


def crossing(steps, nodes):
    """Elements that each node sends to others."""
    sent = dict.fromkeys(nodes, 0)
    for rank, own in enumerate(steps):
        for step in own:
            if isinstance(step, Send) and nodes[step.to] != nodes[rank]:
                sent[nodes[rank]] += len(step.span)
    return sent


@pytest.mark.parametrize("local", [1, 2, 4])
@pytest.mark.parametrize("number", [2, 3, 4, 5, 8])
def test_nodes_send_no_more_than_they_must(local, number):
    nodes = tuple(rank // local for rank in range(local * number))
    size, count = len(nodes), 120_000 * local
    steps = [
        schedules.allreduce(rank, size, count, "hierarchical", nodes=nodes) for rank in range(size)
    ]
    least = 2 * (number - 1) / number * count
    for sent in crossing(steps, nodes).values():
        assert sent == pytest.approx(least, rel=0.01)


def test_broadcasts_cross_a_link_once():
    nodes = (0, 1, 1, 0, 2, 2, 2)
    for algorithm in ("chain", "hierarchical"):
        steps = [
            schedules.bcast(rank, 7, 50_000, 2, algorithm, segment=1000, nodes=nodes)
            for rank in range(7)
        ]
        assert sorted(crossing(steps, nodes).values()) == [0, 50_000, 50_000]


@pytest.mark.parametrize("nodes", MAPS)
@pytest.mark.parametrize("count", [0, 3, 4099])
@pytest.mark.parametrize("algorithm", ["auto", "tree", "chain", "hierarchical"])
def test_bcast(nodes, count, algorithm):
    size = len(nodes)
    x = brought(size, count)
    for root in {0, size // 2, size - 1}:
        after = play(
            [
                schedules.bcast(rank, size, count, root, algorithm, segment=SEGMENT, nodes=nodes)
                for rank in range(size)
            ],
            [{"x": mine.copy()} for mine in x],
        )
        assert all(np.array_equal(own["x"], x[root]) for own in after)


@pytest.mark.parametrize("nodes", MAPS)
@pytest.mark.parametrize("most", [0, 1, 13, 4099])
def test_reduce_scatter_and_allgather(nodes, most):
    size = len(nodes)
    counts = tuple((7 * rank + most) % (most + 1) for rank in range(size))
    x, runs = brought(size, sum(counts)), np.cumsum((0, *counts))
    after = play(
        [
            schedules.reduce_scatter(rank, size, counts, segment=SEGMENT, nodes=nodes)
            for rank in range(size)
        ],
        [{"x": mine.copy(), "out": np.full(n, np.nan)} for mine, n in zip(x, counts, strict=True)],
    )
    expected = tree(in_node_order(nodes, list(x)))
    for rank, own in enumerate(after):
        assert np.array_equal(own["out"], expected[runs[rank] : runs[rank + 1]])
    steps = [
        schedules.allgather(rank, size, counts, segment=SEGMENT, nodes=nodes)
        for rank in range(size)
    ]
    parts = [x[0][runs[rank] : runs[rank + 1]] for rank in range(size)]
    for own in play(steps, [{"x": part, "out": np.full(sum(counts), np.nan)} for part in parts]):
        assert np.array_equal(own["out"], x[0])
    others = {
        node: sum(n for n, home in zip(counts, nodes, strict=True) if home == node)
        * (len(set(nodes)) - 1)
        for node in nodes
    }
    assert crossing(steps, nodes) == others


@given(st.integers(0, 500), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_shares_give_every_element_one_owner_on_each_node(count, sizes):
    stops = list(itertools.accumulate(sizes))
    groups = [list(range(b - n, b)) for b, n in zip(stops, sizes, strict=True)]
    found = [[] for _ in range(sum(sizes))]
    for run, owners in shares(range(count), groups):
        for owner in owners:
            found[owner] += run
    for group in groups:
        expected = [list(run) for run in split(count, len(group))]
        assert [found[rank] for rank in group] == expected


def test_wrong_node_maps_and_names_are_refused():
    with pytest.raises(ValueError, match="3 entries for 4 ranks"):
        schedules.allreduce(0, 4, 10, "hierarchical", nodes=(0, 0, 1))
    with pytest.raises(ValueError, match="'bush'"):
        schedules.bcast(0, 4, 10, 0, "bush")
    with pytest.raises(ValueError, match="'bush'"):
        schedules.allreduce(0, 4, 10, "bush")
