"""How the ranks share the work: the sizes of the mesh, and what is done to save memory and time."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from hpcpar.errors import UserError

__all__ = ["PLANNED", "BatchConfig", "ParallelConfig"]

PLANNED = (  # what a plan chooses
    "data", "pipeline", "context", "tensor", "sequence", "schedule", "chunks", "zero", "recompute",
)  # fmt: skip


@dataclass
class BatchConfig:
    """How the samples of one step are grouped.

    Args:
        size: Samples in a global batch.
        micro: Samples in a micro-batch, which go through the model at once.
        leaves: Leaves of the gradient's sum: runs of consecutive micro-batches; at most size/micro.
    """

    size: int = 32
    micro: int = 2
    leaves: int = 16

    def check(self) -> None:
        """Raises `UserError` unless the global batch is a number of whole micro-batches."""
        if self.size % self.micro:
            raise UserError(
                f"--batch.size {self.size} is not a multiple of --batch.micro {self.micro}: "
                f"take a size of {self.size // self.micro * self.micro or self.micro}, or a micro "
                f"of {_largest_divisor(self.size, self.micro)}"
            )


@dataclass
class ParallelConfig:
    """How the ranks share the work: data x pipeline x context x tensor ranks.

    Args:
        data: Ranks that share every global batch; -1 takes all that the other axes leave.
        pipeline: Ranks that share the layers: stages, one after the other.
        context: Ranks that share every sequence: its positions.
        tensor: Ranks that share every layer: heads, hidden units and the vocabulary; -1 takes all
            that the other axes leave, as --data.partition feature does.
        sequence: Whether tensor ranks also share what is between their products, by rows.
        tiles: Tiles of every axis that tensor and context ranks share, under --reproducible layout.
        schedule: Who computes what when in a pipeline.
        chunks: Stages on each rank of an interleaved pipeline.
        zero: What data-parallel ranks share instead of each having it: 1 the optimizer's state, 2
            also gradients, 3 also parameters; 0 nothing.
        recompute: Keep only the input of each layer, and compute the rest again in backward.
        speeds: How fast each rank is, relative to the others; none if all are the same.
        balance: Steps between two looks at how fast each rank computes; leaves and layers then move
            from slow to fast ones, with the same bits. 0 for never.
        plan: auto takes the fastest layout that fits; the keys above are then left out.
    """

    data: int = -1
    pipeline: int = 1
    context: int = 1
    tensor: int = 1
    sequence: bool = False
    tiles: int = 4
    schedule: Literal["gpipe", "1f1b", "interleaved", "zero-bubble"] = "1f1b"
    chunks: int = 2
    zero: Literal[0, 1, 2, 3] = 1
    recompute: bool = False
    speeds: tuple[float, ...] = ()
    balance: int = 0
    plan: Literal["", "auto"] = ""

    @property
    def stages_a_rank(self) -> int:
        """Virtual stages on each pipeline rank."""
        return self.chunks if self.schedule == "interleaved" and self.pipeline > 1 else 1

    def tiles_under(self, reproducible: str) -> int | None:
        """Tiles of every shared axis; None where the bits may depend on who shares it."""
        return self.tiles if reproducible == "layout" else None

    def filled(self, ranks: int) -> "ParallelConfig":
        """With the tensor ranks that -1 stands for; raises `UserError` as `sizes` does."""
        return self if self.tensor > 0 else replace(self, tensor=self.sizes(ranks)["tensor"])

    def sizes(self, ranks: int) -> dict[str, int]:
        """The axes of the mesh, for so many ranks. Raises `UserError` where they do not fit."""
        for name, size in ("data", self.data), ("tensor", self.tensor):
            if size == 0 or size < -1:
                raise UserError(f"--parallel.{name} is {size}; it must be at least 1, or -1")
        tensor, others = self.tensor, self.pipeline * self.context
        if tensor < 0:
            tensor = max(1, ranks // (others * max(1, self.data)))
        others *= tensor
        data = self.data if self.data > 0 else max(1, ranks // others)
        if data * others != ranks:
            near = ranks // others * others
            hint = f"take {near} ranks" if near else f"take at least {others} ranks"
            if self.data > 0:
                hint = f"take {data * others} ranks, or --parallel.data -1"
            axes = ("context", self.context), ("tensor", tensor)
            shared = [f" x --parallel.{name} {size}" for name, size in axes if size > 1]
            raise UserError(
                f"--parallel.data {self.data} x --parallel.pipeline {self.pipeline}"
                f"{''.join(shared)} does not make the {ranks} ranks that there are: {hint}"
            )
        if self.speeds and len(self.speeds) != ranks:
            raise UserError(
                f"--parallel.speeds has {len(self.speeds)} numbers for {ranks} ranks: "
                "give one for each rank, or none"
            )
        if not all(0 < speed < math.inf for speed in self.speeds):
            raise UserError(f"--parallel.speeds {list(self.speeds)}: each must be above 0")
        return {
            "data": data,
            "pipeline": self.pipeline,
            "context": self.context,
            "tensor": tensor,
        }


def _largest_divisor(number: int, limit: int) -> int:
    return next(d for d in range(min(limit, number), 0, -1) if number % d == 0)
