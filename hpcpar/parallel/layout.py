"""A layout: how many ranks share what, and what follows from it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from hpcpar.parallel.config import BatchConfig, ParallelConfig
from hpcpar.parallel.leaves import Slot, deal_slots, leaf_runs
from hpcpar.schedule.pipeline import pipeline_schedule
from hpcpar.schedule.pipeline_actions import Action
from hpcpar.schedule.tree import deal

__all__ = ["Layout", "Sharing", "step_actions"]


class Sharing(NamedTuple):
    """How ranks share layers, their rows and the positions of a sequence."""

    tensor: int = 1
    sequence: bool = False
    context: int = 1


def step_actions(parallel: ParallelConfig, stage: int, micros: int) -> tuple[Action, ...]:
    """What a pipeline rank does with so many micro-batches in a step of training."""
    if parallel.pipeline == 1:  # backward follows forward at once
        return _schedule("1f1b", 0, 1, micros)
    return _schedule(parallel.schedule, stage, parallel.pipeline, micros, parallel.stages_a_rank)


_schedule = lru_cache(maxsize=256)(pipeline_schedule)


@dataclass(frozen=True)
class Layout:
    """The same on every rank.

    Args:
        parallel: how the ranks share the work.
        batch: how samples are grouped.
        ranks: all of them.
        reproducible: "ranks", "layout" or "off".
        partition: of the data: "sample", "batch" or "feature" (`DataConfig`).

    Attributes: data, pipeline, context and tensor, sizes of the axes.
    """

    parallel: ParallelConfig
    batch: BatchConfig
    ranks: int
    reproducible: str = "ranks"
    partition: str = "sample"

    @property
    def data(self) -> int:
        """Ranks along the data axis."""
        return self.parallel.sizes(self.ranks)["data"]

    @property
    def pipeline(self) -> int:
        """Ranks along the pipeline axis."""
        return self.parallel.pipeline

    @property
    def stages(self) -> int:
        """Virtual stages."""
        return self.pipeline * self.parallel.stages_a_rank

    @property
    def tensor(self) -> int:
        """Ranks along the tensor axis."""
        return self.parallel.tensor

    @property
    def context(self) -> int:
        """Ranks along the context axis."""
        return self.parallel.context

    @property
    def sharing(self) -> Sharing:
        """How ranks share layers and positions."""
        return Sharing(self.tensor, self.parallel.sequence, self.context)

    @property
    def tiles(self) -> int | None:
        """Of every axis that such ranks share, where the bits must not depend on their number."""
        return self.parallel.tiles_under(self.reproducible)

    @property
    def at_once(self) -> bool:
        """Whether gradients are summed over context ranks micro-batch by micro-batch."""
        return self.context > 1 and self.tiles is not None

    @property
    def rounds(self) -> bool:
        """Whether leaves are dealt in rounds."""
        return self.parallel.zero >= 2 and self.data > 1

    @property
    def batches(self) -> int:
        """Batches of a step, of `batch.size` samples each."""
        return self.data if self.partition == "batch" else 1

    @property
    def samples(self) -> int:
        """Samples of a step."""
        return self.batches * self.batch.size

    @cached_property
    def leaves(self) -> list[range]:
        """The micro-batches of every leaf, batch by batch."""
        count, micros = self.batch.leaves, self.batch.size // self.batch.micro
        if self.reproducible == "off" and not self.parallel.speeds:
            count = self.data // self.batches
        each = leaf_runs(micros, count)
        tops = range(0, self.batches * micros, micros)
        return [range(run.start + top, run.stop + top) for top in tops for run in each]

    @cached_property
    def runs(self) -> list[range]:
        """The leaves of every data-parallel rank, where they are not dealt in rounds."""
        return deal(len(self.leaves), self.data, self._leaf_speeds)

    @cached_property
    def slots(self) -> list[list[Slot]]:
        """The micro-batches of every data-parallel rank."""
        return deal_slots(self.leaves, self.data, self.rounds, self._leaf_speeds)

    @cached_property
    def leaf_owners(self) -> list[int]:
        """The data-parallel rank of every leaf."""
        owners = {slot.leaf: rank for rank, own in enumerate(self.slots) for slot in own}
        return [owners[leaf] for leaf in range(len(self.leaves))]

    @property
    def idle_ranks(self) -> int:
        """Ranks without a micro-batch."""
        without = [all(slot.micro < 0 for slot in own) for own in self.slots]
        return self.ranks // self.data * sum(without)

    @property
    def data_speeds(self) -> Sequence[float] | None:
        """Of the ranks at each place of the data axis together; None where all are the same."""
        return self._speeds(0)

    @property
    def _leaf_speeds(self) -> Sequence[float] | None:
        """By batch a rank has a whole one, fast or slow."""
        return None if self.partition == "batch" else self.data_speeds

    @property
    def stage_speeds(self) -> list[float] | None:
        """Of the ranks of each virtual stage together; None where all are the same."""
        speeds = self._speeds(1)
        return None if speeds is None else [*speeds] * self.parallel.stages_a_rank

    def speeds_of(self, data_rank: int) -> tuple[float, ...]:
        """Of the pipeline ranks at a place of the data axis."""
        return self._table()[data_rank] if self.parallel.speeds else (1.0,) * self.pipeline

    def actions(self, stage: int) -> Sequence[Action]:
        """What a pipeline rank does in a step."""
        return step_actions(self.parallel, stage, len(self.slots[0]))

    def _speeds(self, axis: int) -> tuple[float, ...] | None:
        """Sums over the other axis."""
        if not self.parallel.speeds:
            return None
        rows = self._table()
        return tuple(map(sum, rows if axis == 0 else zip(*rows, strict=True)))

    def _table(self) -> list[tuple[float, ...]]:
        """Speeds by data rank and pipeline rank: that of the slowest of those who share it."""
        speeds, step = self.parallel.speeds, self.parallel.context * self.parallel.tensor
        each = [min(speeds[i : i + step]) for i in range(0, self.ranks, step)]
        return [tuple(each[i : i + self.pipeline]) for i in range(0, len(each), self.pipeline)]
