"""The load is balanced while a run goes on: work moves to the ranks that are faster now."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from hpcpar.parallel.balance import better_speeds

if TYPE_CHECKING:
    from hpcpar.checkpoint import Writer
    from hpcpar.mesh import Mesh
    from hpcpar.parallel import ParallelModel
    from hpcpar.recovery.crew import Crew

__all__ = ["Balancer"]


class Balancer:
    """Every `every` steps all ranks learn how long each of them computes; 0 for never.

    Work moves when two looks in a row say that it would save a good part of a step: moving takes
    as long as the run's beginning, and one look may be chance. After each move twice as many looks
    are asked for, so that speeds that come and go do not have the run begin again and again.
    """

    def __init__(
        self, model: "ParallelModel", mesh: "Mesh", every: int, crew: "Crew", saving: "Writer"
    ) -> None:
        self._model, self._mesh, self._every = model, mesh, every
        self._crew, self._saving = crew, saving
        self._before, self._steps, self._in_a_row = 0.0, -1, 0

    def step(self, step: int, spent: Mapping[str, float]) -> None:
        """A step is done; `spent`, seconds of this rank since the beginning, by kind. Collective.

        Where work is to move the crew begins again, and this does not return.
        """
        if not self._every:
            return
        self._steps += 1
        if self._steps == 0:  # the first one pays for much that is done once
            self._before = spent["compute"]
            return
        if self._steps < self._every:
            return
        own = (spent["compute"] - self._before) / self._steps
        self._before, self._steps = spent["compute"], 0
        model = self._model
        seconds = model.comm.allgather(np.array([own])).tolist()
        speeds = better_speeds(model.dealt, model.work, seconds)
        self._in_a_row = 0 if speeds is None else self._in_a_row + 1
        if speeds is not None and self._in_a_row >= self._crew.looks:
            self._saving.finish()  # nobody would go on with what is under way
            self._mesh.close()
            self._crew.balance(speeds, step)
