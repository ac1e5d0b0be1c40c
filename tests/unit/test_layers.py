"""The sum of a product's layers, as a schedule: in the order of the tree, whoever gets it."""

import itertools

import numpy as np
import pytest

from hpcpar.linalg.grids import Plan
from hpcpar.linalg.layers import layer_steps
from hpcpar.schedule import check, simulate
from hpcpar.schedule.shape import subtrees
from hpcpar.schedule.steps import extents


def words(start: int, stop: int, tiles: int) -> str:
    """The sum of the tiles under a node, written out."""
    if stop - start == 1:
        return str(start)
    middle = (start + stop) // 2
    left = words(start, middle, tiles)
    return f"({left}+{words(middle, stop, tiles)})" if middle < tiles else left


@pytest.mark.parametrize("ranks", range(1, 10))
@pytest.mark.parametrize("spread", [None, 2, 3])
def test_every_layer_gets_the_sum_of_all_tiles(ranks, spread):
    nodes = None if spread is None else tuple(rank // spread for rank in range(ranks))
    for tiles, (m, n) in itertools.product({ranks, ranks + 1, 8, 16} - set(range(ranks)),
                                           [(3, 5), (70, 60)]):  # fmt: skip
        plan = Plan((m, n, tiles), (1, 1, ranks), (1, 1, 1))
        schedules = [
            layer_steps(plan, rank, 500, everywhere=True, nodes=nodes) for rank in range(ranks)
        ]
        check(schedules)
        buffers = []
        for rank, steps in enumerate(schedules):
            own = {name: np.full(size, "", object) for name, size in extents(steps).items()}
            run = plan.leaves(rank)
            for i, node in enumerate(subtrees(run.start, run.stop, tiles)):
                start, stop = node.index << node.level, (node.index + 1) << node.level
                own[f"root{i}" if i else "out"] = np.full(m * n, words(start, stop, tiles), object)
            buffers.append(own)
        simulate(schedules, buffers, np.vectorize("({}+{})".format, otypes=[object]))
        whole = words(0, 1 << (tiles - 1).bit_length(), tiles)
        assert all((own["out"] == whole).all() for own in buffers)


def test_a_layer_without_tiles_gets_it_too():
    plan = Plan((4, 5, 2), (1, 1, 3), (1, 1, 1))
    schedules = [layer_steps(plan, rank, 100, everywhere=True) for rank in range(3)]
    buffers = [{name: np.zeros(n) for name, n in extents(steps).items()} for steps in schedules]
    for rank, value in enumerate((1.0, 2.0)):
        buffers[rank]["out"] = np.full(20, value)
    check(schedules)
    simulate(schedules, buffers, np.add)
    assert all((own["out"] == 3).all() for own in buffers)
