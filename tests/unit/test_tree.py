"""TreeSum on one rank: the order is the tree's, whatever the order of the leaves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.comm import Communicator
from hpcpar.tree import TreeSum


@pytest.fixture(scope="module")
def alone():
    from mpi4py import MPI

    with Communicator(MPI.COMM_SELF, device="cpu") as comm:
        yield comm


def tree(leaves, start=0, width=None):
    """The sum by its definition: the tree of the next power of two, absent leaves skipped."""
    width = width or 1 << (len(leaves) - 1).bit_length()
    if start >= len(leaves):
        return None
    if width == 1:
        return leaves[start]
    left, right = tree(leaves, start, width // 2), tree(leaves, start + width // 2, width // 2)
    return left if right is None else left + right


def spread(count, size, seed=0):
    """Leaves of very different magnitudes, so that every order of addition has its own bits."""
    random = np.random.default_rng(seed)
    return [
        (random.standard_normal(size) * 10.0 ** random.integers(-4, 5, size)).astype(np.float32)
        for _ in range(count)
    ]


@given(count=st.integers(1, 40), data=st.data())
def test_any_order_of_adding_gives_the_tree(alone, count, data):
    leaves = spread(count, 17, seed=count)
    total = TreeSum(alone, count, like=leaves[0])
    for number in data.draw(st.permutations(range(count))):
        total.add(number, leaves[number])
    assert np.array_equal(total.reduce(), tree(leaves))


def test_the_order_matters_in_these_tests():
    leaves = spread(16, 1000)
    assert not np.array_equal(tree(leaves), np.sum(leaves, axis=0))


def test_leaves_in_order_need_few_buffers(alone):
    leaves = spread(64, 8)
    total = TreeSum(alone, 64, like=leaves[0])
    seen = set()
    for number, leaf in enumerate(leaves):
        buffer = total.buffer()
        seen.add(id(buffer))
        buffer[...] = leaf
        total.add(number, buffer)
    assert np.array_equal(total.reduce(), tree(leaves))
    assert len(seen) <= 8  # log2(64) partial sums, the leaf, and one more


def test_a_sum_can_be_used_again_and_does_not_grow(alone):
    leaves = spread(5, 8)
    total = TreeSum(alone, 5, like=leaves[0])
    results = []
    for _ in range(3):
        for number, leaf in enumerate(leaves):
            total.add(number, leaf)
        results.append(total.reduce())
    assert all(np.array_equal(result, results[0]) for result in results)
    assert len({id(result) for result in results}) == 3, "a result belongs to the caller"


def test_adding_does_not_change_the_leaf(alone):
    leaves = spread(4, 8)
    before = [leaf.copy() for leaf in leaves]
    total = TreeSum(alone, 4, like=leaves[0])
    for number, leaf in enumerate(leaves):
        total.add(number, leaf)
    total.reduce()
    assert all(np.array_equal(a, b) for a, b in zip(leaves, before, strict=True))


def test_mistakes_are_told(alone):
    total = TreeSum(alone, 4, like=np.zeros(3))
    with pytest.raises(ValueError, match="leaves is 0"):
        TreeSum(alone, 0, like=np.zeros(3))
    with pytest.raises(ValueError, match="no leaf 4 here"):
        total.add(4, np.zeros(3))
    with pytest.raises(ValueError, match=r"float32\[3\]"):
        total.add(0, np.zeros(3, np.float32))
    total.add(0, np.zeros(3))
    with pytest.raises(ValueError, match="added before"):
        total.add(0, np.zeros(3))
    with pytest.raises(ValueError, match=r"\[1, 2, 3\] of rank 0"):
        total.reduce()
    with pytest.raises(TypeError, match="list is no array"):
        TreeSum(alone, 4, like=[1.0])
