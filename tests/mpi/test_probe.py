"""The probe's child inside a launch: it must start an MPI of its own, and be no rank."""

import sys

import pytest

from hpcpar.comm.transports import probe
from hpcpar.comm.transports.probe import YES, cuda_aware

pytestmark = pytest.mark.mpi

CHILD = f"""
import numpy as np
from mpi4py import MPI
assert MPI.COMM_WORLD.Get_size() == 1
sent, got = np.arange(1 << 20), np.zeros(1 << 20, int)
MPI.COMM_SELF.Sendrecv(sent, 0, 0, got, 0, 0)
assert np.array_equal(sent, got)
print({YES!r})
"""


def test_a_child_of_a_rank_is_a_world_of_its_own(comm, tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "_library_says_no", lambda library: False)
    if comm.rank == 0:
        assert cuda_aware(tmp_path, child=(sys.executable, "-c", CHILD), limit=40) is True
    comm.barrier()
