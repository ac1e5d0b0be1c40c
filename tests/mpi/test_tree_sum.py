"""The same bits on any number of ranks."""

import numpy as np
import pytest
from mpi4py import MPI

from hpcpar.comm import Communicator
from hpcpar.tree import TreeSum


def leaf(number: int, size: int) -> np.ndarray:
    random = np.random.default_rng(number)
    return (random.standard_normal(size) * 10.0 ** random.integers(-4, 5, size)).astype(np.float32)


def sum_of(comm: Communicator, leaves: int, size: int) -> np.ndarray:
    total = TreeSum(comm, leaves, like=np.empty(size, np.float32))
    for number in total.mine:
        total.add(number, leaf(number, size))
    return total.reduce()


@pytest.mark.mpi
@pytest.mark.parametrize("leaves", [1, 2, 3, 5, 8, 16, 21])
@pytest.mark.parametrize("size", [0, 1, 7, 1009])
def test_same_bits_as_one_rank(comm, leaves, size):
    with Communicator(MPI.COMM_SELF, device="cpu") as alone:
        expected = sum_of(alone, leaves, size)
    assert np.array_equal(sum_of(comm, leaves, size), expected)


@pytest.mark.mpi
def test_reduce_into_out_and_again(comm):
    out = np.empty((4, 5))
    total = TreeSum(comm, 6, like=out)
    for turn in range(3):
        for number in total.mine:
            total.add(number, np.full((4, 5), number + turn, np.float64))
        assert total.reduce(out=out) is out
        assert np.array_equal(out, np.full((4, 5), 15 + 6 * turn))


@pytest.mark.mpi
def test_every_leaf_has_one_rank(comm):
    total = TreeSum(comm, 16, like=np.zeros(1))
    owned = [number for run in total.runs for number in run]
    assert owned == list(range(16))
    assert len(total.runs) == comm.size
