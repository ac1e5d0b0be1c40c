"""From a checkpoint into a model, on whatever ranks there are now."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpcpar.checkpoint.job import Job
from hpcpar.checkpoint.reading import Checkpoint, load_latest
from hpcpar.checkpoint.waiting import await_jobs
from hpcpar.comm import together
from hpcpar.errors import UserError
from hpcpar.parallel.state import spread

if TYPE_CHECKING:
    from hpcpar.comm import Communicator
    from hpcpar.parallel import ParallelModel

__all__ = ["find_latest", "restore"]


def find_latest(
    comm: "Communicator", folder: Path | None, warn: Callable[[str], None]
) -> Checkpoint | None:
    """`load_latest` on rank 0, which is given the folder; None elsewhere. Collective.

    The others wait for as long as rank 0 gets on. Raises `UserError` on all ranks.
    """
    job = None if folder is None else Job(lambda moved: load_latest(folder, warn, moved))
    try:
        await_jobs(comm, job)
    except UserError as error:
        raise UserError(f"checkpoints cannot be read: {error}") from None
    found = None
    with together(comm):
        if job is not None:
            found = job.result()
    return found


def restore(model: "ParallelModel", saved: Checkpoint | None) -> int:
    """Set weights and optimizer; the step that they are of, 0 (and nothing set) without one.

    `saved` is None on all ranks but 0. Collective. Raises `UserError` on all ranks when a file
    cannot be read any more.
    """
    comm = model.comm
    step = int(comm.bcast(np.array([0 if saved is None else saved.facts.step]))[0])
    if step:
        spread(model, None if saved is None else saved.model)
        for kind in model.update.optimizer.kinds:
            spread(model, None if saved is None else saved.optimizer[kind], kind)
        model.update.optimizer.steps = step
    return step
