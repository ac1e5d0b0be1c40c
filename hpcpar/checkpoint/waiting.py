"""Waiting for the disks of other ranks: as long as they get on they may take their time."""

import time
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from hpcpar.checkpoint.job import Job
from hpcpar.comm import together
from hpcpar.errors import UserError

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["all_done", "await_jobs"]

T = TypeVar("T")

_LOOK = 0.5  # seconds, at most, between two looks at the others


def all_done(comm: "Communicator", job: Job[Any] | None) -> bool:
    """Whether every rank's job is done, or None. Collective."""
    done = job is None or job.done
    return bool(comm.allreduce(np.array([int(done)]), op="min")[0])


def await_jobs(comm: "Communicator", job: Job[T] | None) -> None:
    """Until every rank's job is done. Collective.

    Raises `UserError` on all ranks when one has not got on for as long as a wait may last.
    """
    moved, since, stuck = 0, time.monotonic(), False
    while not all_done(comm, job):
        with together(comm):
            if stuck:
                raise UserError(f"the disk has done nothing for {comm.timeout:g} s")
        if job is None:
            continue
        job.wait(min(_LOOK, comm.timeout / 4))
        if job.moved != moved:
            moved, since = job.moved, time.monotonic()
        stuck = not job.done and time.monotonic() - since > comm.timeout
