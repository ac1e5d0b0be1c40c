"""A rank's place in the mesh of a training run."""

from typing import TYPE_CHECKING

from hpcpar.nn import Parameter
from hpcpar.parallel.config import ParallelConfig
from hpcpar.parallel.layout import step_actions
from hpcpar.schedule.pipeline_actions import Action, Forward, ReceiveActivation, SendActivation

if TYPE_CHECKING:
    from hpcpar.comm import Communicator
    from hpcpar.mesh import Mesh

__all__ = ["Axes"]


class Axes:
    """The communicators of the axes, None for an axis of one rank.

    Attributes: comm, all ranks; data, pipeline, context and tensor, their sizes, and this rank's
    places: data_rank, stage, context_rank and tensor_rank.
    """

    def __init__(self, mesh: "Mesh", parallel: ParallelConfig) -> None:
        self.comm, self.parallel = mesh.comm, parallel
        self.data = _axis(mesh, "data")
        self.pipeline = _axis(mesh, "pipeline")
        self.context = _axis(mesh, "context")
        self.tensor = _axis(mesh, "tensor")
        self.data_size, self.pipeline_size, self.context_size, self.tensor_size = (
            mesh.sizes.get(name, 1) for name in ("data", "pipeline", "context", "tensor")
        )
        self.data_rank, self.stage = mesh.coords["data"], mesh.coords["pipeline"]
        self.context_rank = mesh.coords.get("context", 0)
        self.tensor_rank = mesh.coords.get("tensor", 0)

    @property
    def place(self) -> int:
        """This rank's number among those that compute a micro-batch together."""
        place = self.stage * self.context_size + self.context_rank
        return place * self.tensor_size + self.tensor_rank

    def counts(self, parameter: Parameter) -> bool:
        """Whether a parameter counts here: once, of all ranks that share its layer and have it."""
        return self.context_rank == 0 and (parameter.cut is not None or self.tensor_rank == 0)

    def schedule(self, rank: int, micros: int) -> tuple[Action, ...]:
        """What a pipeline rank does with so many micro-batches in a step of training."""
        return step_actions(self.parallel, rank, micros)

    def forward_only(self, micros: int) -> list[Action]:
        """Micro-batches through all stages, without training."""
        ranks, actions = self.pipeline_size, list[Action]()
        stages = range(self.stage, ranks * self.parallel.stages_a_rank, ranks)
        for micro in range(micros):
            for stage in stages:
                if stage and ranks > 1:
                    actions.append(ReceiveActivation(micro, stage, (self.stage - 1) % ranks))
                actions.append(Forward(micro, stage))
                if stage < ranks * self.parallel.stages_a_rank - 1 and ranks > 1:
                    actions.append(SendActivation(micro, stage, (self.stage + 1) % ranks))
        return actions


def _axis(mesh: "Mesh", name: str) -> "Communicator | None":
    return None if mesh.sizes.get(name, 1) == 1 else mesh[name]
