"""Small models that the ranks of a communicator train, for tests of their checkpoints."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from small_models import small_model

import hpcpar
from hpcpar.device import to_host
from hpcpar.parallel import BatchConfig, ParallelConfig, parallelize
from hpcpar.parallel.parts import Part
from hpcpar.parallel.state import owned

__all__ = ["Run", "running"]

BATCH = BatchConfig(size=8, micro=2, leaves=4)


class Run:
    """A model that a communicator's ranks train, and its samples."""

    def __init__(self, comm: hpcpar.Communicator, kind: str, **layout: Any) -> None:
        plain, part = small_model(kind, layers=2)
        self.part: Any = part
        parallel = ParallelConfig(**layout)
        self.mesh = hpcpar.Mesh(comm, **parallel.sizes(comm.size))
        self.model = parallelize(plain, self.mesh, parallel, BATCH, None, "layout")
        self.model.initialize(3)

    def step(self, number: int) -> tuple[float, float]:
        """A step; its loss and norm."""
        loss = self.model.loss_and_gradients(self.part, (np.arange(BATCH.size) * 7 + number) % 64)
        norm = self.model.update.norm()
        self.model.update.step(1e-2, 1.0)
        return loss, norm

    def own(self) -> dict[str, list[tuple[Part, np.ndarray]]]:
        """Of every kind the elements that this rank updates."""
        kinds = ("weights", *self.model.update.optimizer.kinds)
        return {
            kind: [(p, to_host(a).copy()) for p, a in owned(self.model, kind)] for kind in kinds
        }


@contextmanager
def running(comm: hpcpar.Communicator, kind: str, **layout: Any) -> Iterator[Run]:
    run = Run(comm, kind, **layout)
    yield run
    run.mesh.close()
