"""Layouts: every element is held, once or by all copies, and runs fit together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.linalg.layout import LAYOUTS, common, length, named

EXTENTS = st.integers(0, 40)
GRIDS = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 2))


@given(st.sampled_from(LAYOUTS), GRIDS, EXTENTS, EXTENTS, st.integers(1, 9))
def test_every_element_is_held(name, grid, m, n, block):
    layout = named(name, grid, block)
    seen = np.zeros((m, n), int)
    for rank in range(layout.ranks):
        rows, columns = layout.runs((m, n), rank)
        for runs, extent in ((rows, m), (columns, n)):
            flat = [i for run in runs for i in run]
            assert flat == sorted(set(flat)) and all(0 <= i < extent for i in flat)
            assert all(runs) and length(runs) == len(flat)
        for row in rows:
            for column in columns:
                seen[row.start : row.stop, column.start : column.stop] += 1
    copies = {"replicated": layout.ranks, "block": grid[2], "cyclic": grid[2]}.get(name, 1)
    assert (seen == copies).all()


@given(GRIDS, EXTENTS, EXTENTS)
def test_blocks_are_those_of_array_split(grid, m, n):
    layout, ranks = named("block", grid), int(np.prod(grid))
    rows, columns = np.array_split(np.arange(m), grid[0]), np.array_split(np.arange(n), grid[1])
    for rank in range(ranks):
        place = layout.coords(rank)
        held = layout.runs((m, n), rank)
        assert [i for run in held[0] for i in run] == list(rows[place["rows"]])
        assert [j for run in held[1] for j in run] == list(columns[place["columns"]])


@given(GRIDS, EXTENTS, EXTENTS, st.sampled_from(LAYOUTS), st.integers(1, 9))
def test_transposed(grid, m, n, name, block):
    layout = named(name, grid, block)
    for rank in range(layout.ranks):
        rows, columns = layout.runs((m, n), rank)
        assert layout.T.runs((n, m), rank) == (columns, rows)


def runs_of(flags):
    """The runs of True."""
    edges = np.flatnonzero(np.diff([False, *flags, False]))
    return tuple(range(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30))
def test_common_runs_with_their_places(flags):
    one, other = (runs_of([pair[side] for pair in flags]) for side in (0, 1))
    held = [[i for run in runs for i in run] for runs in (one, other)]
    found = {}
    for run, here, there in common(one, other):
        for shift, i in enumerate(run):
            found[i] = held[0][here + shift], held[1][there + shift]
    assert found == {i: (i, i) for i in set(held[0]) & set(held[1])}


def test_a_rank_beyond_the_grid_holds_nothing():
    assert named("block", (2, 2, 1)).runs((4, 4), 4) == ((), ())


@pytest.mark.parametrize(("name", "words"), [("diagonal", "must be one of block"), (3, "is 3")])
def test_refused(name, words):
    with pytest.raises(ValueError, match=words):
        named(name, (1, 1, 1))
