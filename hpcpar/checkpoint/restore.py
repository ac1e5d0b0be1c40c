"""From a checkpoint into a model, on whatever ranks there are now."""

from typing import TYPE_CHECKING

import numpy as np

from hpcpar.checkpoint.reading import Checkpoint
from hpcpar.parallel.state import spread

if TYPE_CHECKING:
    from hpcpar.parallel import ParallelModel

__all__ = ["restore"]


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
