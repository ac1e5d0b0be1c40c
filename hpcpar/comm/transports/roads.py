"""Which transports a communicator's GPU arrays take: its backend, and what there is."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from mpi4py import MPI

from hpcpar.comm.transports.direct import DirectTransport
from hpcpar.comm.transports.nccl import NcclTransport, load_nccl
from hpcpar.comm.transports.staged import StagedTransport
from hpcpar.comm.transports.stream import Gpu
from hpcpar.errors import UserError

__all__ = ["BACKENDS", "Roads", "open_roads"]

BACKENDS = ("auto", "mpi", "staged", "nccl")


@dataclass(frozen=True)
class Roads:
    """`messages` have tags; `collectives` come in the same order on all ranks."""

    collectives: StagedTransport | NcclTransport
    messages: StagedTransport

    @property
    def nccl(self) -> NcclTransport | None:
        """The transport of collectives where it is NCCL's."""
        return self.collectives if isinstance(self.collectives, NcclTransport) else None


def open_roads(backend: str, gpu: Gpu, channel: MPI.Comm, local_rank: int, timeout: float) -> Roads:
    """The ways of GPU arrays among the ranks of `channel`.

    Args:
        backend: one of `BACKENDS`; auto takes mpi where the MPI library takes GPU memory on all
            nodes, else staged. Not nccl, whose sums are the same but which has not run on a card.
        gpu: this rank's.
        channel: the ranks; used here only, and by NCCL to set itself up.
        local_rank: this rank's number on its node; rank 0 finds out for all.
        timeout: seconds that NCCL may take to set up.

    Collective, and it may take seconds the first time. Raises `UserError` on every rank where a
    rank lacks what the backend needs.
    """
    if backend == "staged":
        staged = StagedTransport(gpu)
        return Roads(staged, staged)
    modules: list[ModuleType] = []
    if backend == "nccl":
        _on_all(channel, lambda: modules.append(load_nccl()))
    messages = DirectTransport(gpu) if _takes_gpu_memory(channel, local_rank) else None
    if backend == "mpi" and messages is None:
        raise UserError(
            "backend mpi: this MPI library does not take GPU arrays; take auto or staged "
            f"(how that was found out: {_cache()}/cuda-aware-*.json)"
        )
    by_mpi = StagedTransport(gpu) if messages is None else messages
    if not modules:
        return Roads(by_mpi, by_mpi)
    return Roads(NcclTransport(gpu, channel, modules[0], timeout), by_mpi)


def _takes_gpu_memory(channel: MPI.Comm, local_rank: int) -> bool:
    """Whether MPI does, on every node."""
    from hpcpar.comm.transports.probe import cuda_aware  # is a program of its own, too

    mine = cuda_aware(_cache()) if local_rank == 0 else True
    return bool(channel.allreduce(mine, MPI.LAND))


def _cache() -> Path:
    """The user's folder for what is found out once (XDG Base Directory Specification)."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "hpcpar"


def _on_all(channel: MPI.Comm, work: Callable[[], object]) -> None:
    """Do something that may fail, and fail on all ranks with the words of the first that did."""
    problem = ""
    try:
        work()
    except UserError as error:
        problem = str(error)
    for rank, text in enumerate(channel.allgather(problem)):
        if text:
            raise UserError(text if rank == 0 else f"rank {rank}: {text}")
