"""Schedules over nodes, chains and halving, run on real ranks with made-up nodes."""

import numpy as np
import pytest

from hpcpar.schedule import collectives as schedules
from hpcpar.schedule import deal, subtrees, tree_allreduce

pytestmark = pytest.mark.mpi

SEGMENT = 4001


def maps(size):
    """Nodes that such ranks could be on."""
    found = {(0,) * size, tuple(range(size))}
    found |= {tuple(rank // n for rank in range(size)) for n in (2, 3, 5)}
    return sorted(found)


def scattered(size):
    return tuple(rank % 2 for rank in range(size))


def brought(size, count):
    return [np.random.default_rng([r, count]).standard_normal(count) for r in range(size)]


def tree(parts):
    while len(parts) > 1:
        pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
        parts = [pair[0] + pair[1] if len(pair) == 2 else pair[0] for pair in pairs]
    return parts[0]


@pytest.mark.parametrize("count", [1, 3000, 70_003])
def test_hierarchical_allreduce(comm, count):
    x = brought(comm.size, count)
    for nodes in maps(comm.size):
        steps = schedules.allreduce(
            comm.rank, comm.size, count, "hierarchical", segment=SEGMENT, nodes=nodes
        )
        out = np.full(count, np.nan)
        comm.run(steps, {"x": x[comm.rank], "out": out})
        assert np.array_equal(out, tree(x)), nodes


@pytest.mark.parametrize("count", [1, 70_003])
def test_hierarchical_allreduce_in_place_on_scattered_nodes(comm, count):
    x = brought(comm.size, count)
    steps = schedules.allreduce(
        comm.rank, comm.size, count, "hierarchical", "out", segment=SEGMENT,
        nodes=scattered(comm.size),
    )  # fmt: skip
    out = x[comm.rank].copy()
    comm.run(steps, {"out": out})
    np.testing.assert_allclose(out, tree(x), rtol=1e-12, atol=1e-12)
    everybodys = comm.allgather(out[None])
    assert all(np.array_equal(other, out) for other in everybodys)


@pytest.mark.parametrize("algorithm", ["halving", "hierarchical"])
@pytest.mark.parametrize("leaves", [5, 16])
def test_tree_sums(comm, leaves, algorithm):
    values, runs = brought(leaves, 20_011), deal(leaves, comm.size)

    def subtree(start, stop):
        if stop - start == 1:
            return values[start]
        middle = (start + stop) // 2
        left = subtree(start, middle)
        return left + subtree(middle, stop) if middle < leaves else left

    mine, out = runs[comm.rank], np.full(20_011, np.nan)
    buffers = {"out": out} | {
        f"root{i}": subtree(node.index << node.level, (node.index + 1) << node.level).copy()
        for i, node in enumerate(subtrees(mine.start, mine.stop, leaves))
    }
    for nodes in maps(comm.size):
        steps = tree_allreduce(
            comm.rank, comm.size, 20_011, runs, leaves, segment=SEGMENT, algorithm=algorithm,
            nodes=nodes,
        )  # fmt: skip
        out[:] = np.nan
        comm.run(steps, buffers)
        assert np.array_equal(out, subtree(0, 1 << (leaves - 1).bit_length())), nodes


@pytest.mark.parametrize("count", [0, 5, 3000, 300_007])
def test_halving_on_every_number_of_ranks(comm, count):
    x = brought(comm.size, count)
    steps = schedules.allreduce(comm.rank, comm.size, count, "halving", segment=SEGMENT)
    out = np.full(count, np.nan)
    comm.run(steps, {"x": x[comm.rank], "out": out})
    assert np.array_equal(out, tree(x))


@pytest.mark.parametrize("algorithm", ["tree", "chain", "hierarchical"])
@pytest.mark.parametrize("count", [1, 70_003])
def test_broadcasts(comm, algorithm, count):
    x = brought(comm.size, count)
    for nodes in [*maps(comm.size), scattered(comm.size)]:
        for root in {0, comm.size - 1}:
            out = x[comm.rank].copy()
            steps = schedules.bcast(
                comm.rank, comm.size, count, root, algorithm, segment=SEGMENT, nodes=nodes
            )
            comm.run(steps, {"x": out})
            assert np.array_equal(out, x[root])


def test_reduce_scatter_and_allgather_over_nodes(comm):
    counts = tuple(9001 * (rank + 1) for rank in range(comm.size))
    ends = np.cumsum((0, *counts))
    x, mine = brought(comm.size, sum(counts)), slice(ends[comm.rank], ends[comm.rank + 1])
    for nodes in maps(comm.size):
        part, whole = np.full(counts[comm.rank], np.nan), np.full(sum(counts), np.nan)
        comm.run(
            schedules.reduce_scatter(comm.rank, comm.size, counts, segment=SEGMENT, nodes=nodes),
            {"x": x[comm.rank], "out": part},
        )
        assert np.array_equal(part, tree(x)[mine])
        comm.run(
            schedules.allgather(comm.rank, comm.size, counts, segment=SEGMENT, nodes=nodes),
            {"x": part, "out": whole},
        )
        assert np.array_equal(whole, tree(x))
