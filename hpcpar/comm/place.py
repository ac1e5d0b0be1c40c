"""Where the ranks are: which share a node, and whether they have a core each."""

import os
from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from hpcpar.comm.lost import losses

__all__ = ["Place", "find_place"]

_CPUS = 8192  # as many as Linux is built for


@dataclass(frozen=True)
class Place:
    """A rank's place; nodes are numbered in the order of their lowest ranks."""

    local_rank: int
    local_size: int
    node: int
    nodes: int
    map: tuple[int, ...]  # the node of each rank
    cores: int  # of this node, for its ranks together

    @property
    def crowded(self) -> bool:
        """More ranks on this node than cores for them."""
        return self.local_size > self.cores


def find_place(comm: MPI.Comm) -> Place:
    """Collective over `comm`."""
    local = comm.Split_type(MPI.COMM_TYPE_SHARED, comm.Get_rank())
    comm.Barrier()  # all have `local`: it may be revoked
    with losses(local, "the nodes were counted"):
        place = _find(comm, local)
    local.Free()
    return place


def _find(comm: MPI.Comm, local: MPI.Comm) -> Place:
    leader = np.array([comm.Get_rank()])
    local.Bcast(leader)
    leaders = np.empty(comm.Get_size(), leader.dtype)
    comm.Allgather(leader, leaders)
    numbers = np.unique(leaders)

    cores = np.zeros(_CPUS, np.uint8)  # those that some rank of the node may run on
    cores[list(os.sched_getaffinity(0))] = 1
    local.Allreduce(MPI.IN_PLACE, cores, MPI.MAX)
    return Place(
        local_rank=local.Get_rank(),
        local_size=local.Get_size(),
        node=int(np.searchsorted(numbers, leader[0])),
        nodes=len(numbers),
        map=tuple(np.searchsorted(numbers, leaders).tolist()),
        cores=int(cores.sum()),
    )
