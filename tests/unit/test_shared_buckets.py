"""Where subtotals of gradients grow that other ranks read: every root comes to its own room."""

from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.nn import Arena, Parameter
from hpcpar.parallel.buckets import layer_buckets
from hpcpar.parallel.shared_buckets import SharedRoots, most_roots
from hpcpar.schedule.shape import deal, subtrees
from hpcpar.tree import Subtotals

SIZE = 5


@given(st.integers(1, 24), st.integers(1, 6), st.integers(0, 3), st.data())
def test_roots_lie_where_the_others_look(leaves, ranks, late, data):
    """Also when some leaves are added later than the next ones are begun."""
    runs = deal(leaves, ranks)
    run = runs[data.draw(st.integers(0, ranks - 1))]
    nodes = subtrees(run.start, run.stop, leaves)
    (bucket,) = layer_buckets([Parameter("p", (SIZE,))], (), 1)
    most, arena = most_roots(runs, leaves), Arena()
    memory = SimpleNamespace(local=np.full(most * SIZE, np.nan, np.float32))
    shared = SharedRoots(memory, bucket, arena, [node.leaves(leaves).start for node in nodes])
    sums = Subtotals(leaves, np.empty(SIZE, np.float32), shared)
    assert shared.bytes == 4 * most * SIZE
    for _ in range(2):  # steps
        begun: list[tuple[int, np.ndarray]] = []
        for leaf in run:
            begun.append((leaf, shared.buffer(leaf)))
            begun[-1][1].fill(leaf)
            if len(begun) > late:
                sums.add(*begun.pop(0))
        for leaf, array in begun:
            sums.add(leaf, array)
        shared.settle(sums.take(run))
        for place, node in enumerate(nodes):
            room = memory.local[place * SIZE : (place + 1) * SIZE]
            assert room.tolist() == [sum(node.leaves(leaves))] * SIZE
        assert arena.lent == 0
    if not late and len(run):  # nothing beside the rooms but what a binary counter needs
        deepest = max(node.level for node in nodes)
        assert arena.bytes <= 4 * SIZE * max(0, deepest + 1)
