"""Copies of parts of a block: the same whichever way they go, and few of them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.linalg.layout import common, named
from hpcpar.linalg.parts import SLICE, copy_parts, joined, slices

EXTENTS = st.integers(1, 200)


class Counting(np.ndarray):
    """An array that counts how often something is written to it."""

    written = 0

    def __setitem__(self, index, value):
        Counting.written += 1
        super().__setitem__(index, value)


def parts(grid, rank, extents, block, other):
    """What a rank of a block-cyclic layout has of what another rank of another one has."""
    one = named("cyclic", grid, block).runs(extents, rank)
    wanted = named("cyclic", (grid[1], grid[0], 1), other).runs(extents, rank)
    return [common(a, b) for a, b in zip(one, wanted, strict=True)], one, wanted


@given(EXTENTS, EXTENTS, st.integers(1, 5), st.integers(1, 70), st.integers(0, 5))
def test_every_element_comes_to_its_place(m, n, block, other, rank):
    (rows, columns), one, wanted = parts((2, 3, 1), rank, (m, n), block, other)
    x = np.arange(m * n).reshape(m, n)
    held, whole = (x[np.ix_(*([i for run in runs for i in run] for runs in way))]
                   for way in (one, wanted))  # fmt: skip
    into = np.full(whole.shape, -1)
    copy_parts(into, held, rows, columns)
    both = [[i for run, _, _ in axis for i in run] for axis in (rows, columns)]
    inside = np.isin(whole, x[np.ix_(*both)])
    assert np.array_equal(into, np.where(inside, whole, -1))
    packed = np.zeros((len(both[0]), len(both[1])), int)
    copy_parts(packed, held, joined(rows, here=False), joined(columns, here=False))
    assert np.array_equal(packed, x[np.ix_(*both)])
    again = np.full(whole.shape, -1)
    copy_parts(again, packed, joined(rows, here=True), joined(columns, here=True))
    assert np.array_equal(again, into)


def test_single_elements_are_not_copied_one_by_one():
    """And no more of them at a time than `SLICE`."""
    x = np.arange(1000 * 1000.0).reshape(1000, 1000)
    runs = named("cyclic", (2, 1, 1), 1).runs(x.shape, 0)[0]
    rows, columns = common(runs, (range(1000),)), common(runs, runs)
    into = np.zeros((1000, 500)).view(Counting)
    Counting.written = 0
    copy_parts(into, x[::2, ::2], rows, columns)
    assert Counting.written <= 1 + into.size // (2 * SLICE) * 1.1
    assert np.array_equal(into[::2], x[::2, ::2])


@given(st.integers(0, 3 * SLICE), st.integers(0, 5))
def test_slices_are_small_and_cover_the_block(m, n):
    shape = (m, n) if m % 2 else (n, m)
    seen = np.zeros(shape, np.int8)
    for part in slices(shape):
        seen[part] += 1
        assert 0 < seen[part].size <= SLICE
    assert (seen == 1).all()
