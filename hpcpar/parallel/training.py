"""A model that many ranks train together."""

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from hpcpar.nn import Arena, Model
from hpcpar.optim import OptimConfig
from hpcpar.parallel.axes import Axes
from hpcpar.parallel.backward import Gradients
from hpcpar.parallel.balance import Work
from hpcpar.parallel.context import start_context_sum
from hpcpar.parallel.gradients import GradientSum, Unsummed
from hpcpar.parallel.holdings import Holdings
from hpcpar.parallel.layout import Layout
from hpcpar.parallel.leaves import Slot, deal_slots
from hpcpar.parallel.memory import Bytes
from hpcpar.parallel.micros import Micros
from hpcpar.parallel.perform import Performer
from hpcpar.parallel.run_roots import RunRoots
from hpcpar.parallel.timeline import Timeline
from hpcpar.parallel.update import Update
from hpcpar.parallel.weights import Weights
from hpcpar.parallel.witness import Witness
from hpcpar.tree import tree_total

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hpcpar.data import Part

__all__ = ["ParallelModel"]


class ParallelModel:
    """What `parallelize` makes of a model.

    Attributes: model, the whole of it; holdings and weights, what this rank has; update, with the
    optimizer; gradients, the reduced ones of this rank's buckets; work, which layers each rank has;
    idle_ranks, those without work;
    slots and actions, of a step on this rank, and micros, the slots that are no gaps; timeline,
    what the rank's time goes into.
    """

    def __init__(
        self,
        model: Model,
        holdings: Holdings,
        axes: Axes,
        layout: Layout,
        work: Work,
        sums: "Sequence[GradientSum]",
        weights: Weights,
        optim: OptimConfig,
        arena: Arena,
        timeline: Timeline,
    ) -> None:
        self.model, self.holdings, self.axes, self.weights = model, holdings, axes, weights
        self.gradients, self.arena, self.comm = sums, arena, axes.comm
        self._layout, self._batch = layout, layout.batch
        self.work = work
        self.timeline = timeline
        self.idle_ranks = layout.idle_ranks
        self._slots = layout.slots[axes.data_rank]
        self.slots = len(self._slots)
        self.micros = sum(slot.micro >= 0 for slot in self._slots)
        self.actions = axes.schedule(axes.stage, self.slots)
        at_once = axes.context if layout.at_once else None
        self._backward = Gradients(holdings, weights.xp, at_once)
        self._performer = Performer(
            holdings, model.loss_function, weights, self._backward, model.input_shape,
            axes.comm.device, arena, axes.pipeline, axes.comm.progress, self.timeline,
        )  # fmt: skip
        self.update = Update(
            optim, holdings, weights, sums, axes.comm, axes.pipeline, self.timeline,
            counts=axes.counts,
        )  # fmt: skip

    @property
    def dealt(self) -> Layout:
        """How leaves and layers are dealt."""
        return self._layout

    @property
    def columns(self) -> range | None:
        """The features of a table that this rank is to be given, by feature; None are all."""
        first = self.model.parameters[0]
        if self._layout.partition != "feature":
            return None
        runs = (range(first.shape[0]),) if first.cut is None else first.cut.runs
        return range(runs[0].start, runs[-1].stop)

    @property
    def leaf_owners(self) -> list[int]:
        """The data-parallel rank that computes each leaf of a step."""
        return self._layout.leaf_owners

    @property
    def notes(self) -> list[str]:
        """What the user should know of this layout."""
        found, axes, layout = [], self.axes, self._layout
        if self.idle_ranks:
            found.append(f"{self.idle_ranks} ranks have no leaf of the batch to compute")
        if layout.partition == "batch":
            found.append(
                f"with --data.partition batch a step takes {layout.batch.size} samples for each "
                f"data-parallel rank: the weights' hash is that of {layout.batches} of them"
            )
            if axes.parallel.speeds:
                found.append("a rank has a whole batch, whatever the speeds are")
        elif axes.parallel.speeds and layout.rounds:
            found.append("--parallel.zero 2 and 3 deal leaves evenly, whatever the speeds are")
        for name, size in ("tensor", axes.tensor_size), ("context", axes.context_size):
            if size > 1 and layout.reproducible == "ranks":
                found.append(
                    f"with --parallel.{name} {size} the bits are those of so many {name} ranks; "
                    "--reproducible layout has the same ones on any number"
                )
        if axes.tensor is not None and axes.tensor.nodes > 1:
            found.append(
                f"the {axes.tensor_size} tensor-parallel ranks are on {axes.tensor.nodes} nodes: "
                "every layer waits for the network; a smaller --parallel.tensor stays in a node"
            )
        return found

    @property
    def layout(self) -> dict[str, object]:
        """The sizes of the axes, and what else tells how the ranks share the work."""
        parallel = self.axes.parallel
        found: dict[str, object] = {
            "data": self.axes.data_size, "pipeline": self.axes.pipeline_size,
            "tensor": self.axes.tensor_size, "zero": parallel.zero,
        }  # fmt: skip
        if self._layout.partition != "sample":
            found |= {"partition": self._layout.partition}
        if self.axes.context is not None:
            found |= {"context": self.axes.context_size}
        if self.axes.tensor is not None:
            found |= {"sequence": parallel.sequence}
        if self.axes.pipeline is not None:
            found |= {"schedule": parallel.schedule, "stages": self.holdings.count}
        return found | ({"recompute": True} if parallel.recompute else {})

    def bytes(self) -> Bytes:
        """The bytes of this rank's arrays, by what they are for: complete after the first step."""
        axes = self.axes.data, self.axes.context, self.axes.tensor
        scratch = sum(comm.scratch_bytes for comm in axes if comm is not None)
        buffers = self.weights.gathered_bytes + self.update.landed_bytes
        return Bytes(
            parameters=sum(int(array.nbytes) for array in self.weights.flat.values()),
            gradients=self.gradients[0].arena.bytes
            + self._backward.bytes
            + sum(total.shared_bytes for total in self.gradients),
            optimizer=self.update.optimizer.bytes,
            activations=self.arena.bytes,
            buffers=buffers + scratch,
        )

    def initialize(self, seed: int) -> None:
        """Draw the weights: the same ones on any layout."""
        for number in self.holdings.has_weights:
            run = self.weights.run(number)
            for piece in self.holdings.buckets[number].pieces(run):
                values = piece.parameter.draw(seed).reshape(-1)
                start = piece.at - run.start
                self.weights.flat[number][start : start + piece.size] = self.weights.xp.asarray(
                    values[piece.run.start : piece.run.stop]
                )

    def loss_and_gradients(
        self, part: "Part", indices: np.ndarray, witness: Witness | None = None
    ) -> float:
        """The mean loss of the global batch of these samples; its gradient is then summed.

        `indices` has shape (dealt.samples,), the same on every rank; a rank reads only its own
        samples. By feature `part` has this rank's `columns`. The loss is a float64 sum over all
        targets, divided by their number. A witness is shown what this rank computes of its leaf.
        Collective.
        """
        self._backward.begin(self._slots, self.gradients, witness)
        losses = self._compute(self._slots, part, indices, witness)
        with self.timeline.on("communication", "sum gradients"):
            self._backward.finish()
            for total in reversed(self.gradients):
                total.finish()
            self._sum_context()
            self.update.fold()
        targets = self._layout.samples * part.targets_per_sample
        return self._mean(losses, self._layout.leaves, targets)

    def leaf_again(
        self, data_rank: int, part: "Part", indices: np.ndarray, witness: Witness
    ) -> None:
        """Compute the leaf of a witness on a data-parallel rank; it goes into no sum. Collective.

        Before the update it has the bits that it had in `loss_and_gradients`, whoever computes it.
        """
        every = {slot.micro: slot for own in self._layout.slots for slot in own}
        mine, run = self.axes.data_rank == data_rank, self._layout.leaves[witness.leaf]
        slots = [replace(every[micro], ends=False) if mine else Slot() for micro in run]
        self._backward.begin(slots, [Unsummed(total) for total in self.gradients], witness)
        self._compute(slots, part, indices, witness)
        self._backward.finish()

    def roots(
        self, part: "Part", indices: np.ndarray
    ) -> "tuple[Sequence[RunRoots], dict[int, float]]":
        """What this rank's leaves add to the sums of all buckets, and its micro-batches' losses.

        No rank waits for another: for those whose sums are made elsewhere. The roots are good until
        the next step begins.
        """
        self._backward.begin(self._slots, self._roots)
        losses = self._compute(self._slots, part, indices, None)
        self._backward.finish()
        return self._roots, losses

    @cached_property
    def _roots(self) -> "Sequence[RunRoots]":
        return [RunRoots(total, self.own_leaves) for total in self.gradients]

    @property
    def own_leaves(self) -> range:
        """The run of leaves that this rank computes, where they are not dealt in rounds."""
        return self._layout.runs[self.axes.data_rank]

    @property
    def micros_a_step(self) -> int:
        """Micro-batches of the global batch."""
        return self._layout.leaves[-1].stop

    def mean_loss(self, micros: "Mapping[int, float]", part: "Part") -> float:
        """That of a step, from the losses of all its micro-batches."""
        losses = [micros[micro] for micro in range(len(micros))]
        targets = self._layout.samples * part.targets_per_sample
        return self._of_leaves(losses, self._layout.leaves) / targets

    def _compute(
        self, slots: "Sequence[Slot]", part: "Part", indices: np.ndarray, witness: Witness | None
    ) -> dict[int, float]:
        """Forward and backward of micro-batches of a step; their losses, on the last stage."""
        micros = Micros(part, list(indices.reshape(-1, self._batch.micro)))
        targets = self._layout.samples * part.targets_per_sample
        actions = self.axes.schedule(self.axes.stage, len(slots))
        losses = self._performer.run(actions, slots, micros, 1.0 / targets, witness=witness)
        if witness is not None:
            for micro in losses.keys() & set(self._layout.leaves[witness.leaf]):
                witness.loss(micro, losses[micro])
        return losses

    def evaluate(self, part: "Part", samples: np.ndarray) -> float:
        """The mean loss per target over the given samples of a part. Collective.

        They go through the model as micro-batches, the last one with what is left; each is a leaf
        of one tree sum in float64.
        """
        step = self._batch.micro
        micros = [samples[start : start + step] for start in range(0, len(samples), step)]
        leaves = [range(i, i + 1) for i in range(len(micros))]
        slots = deal_slots(leaves, self.axes.data_size, False, self._layout.data_speeds)[
            self.axes.data_rank
        ]
        actions = self.axes.forward_only(len(slots))
        losses = self._performer.run(actions, slots, Micros(part, micros), 1.0, training=False)
        return self._mean(losses, leaves, len(samples) * part.targets_per_sample)

    def _sum_context(self) -> None:
        """Over the context-parallel ranks, unless every micro-batch's gradient was summed."""
        if self.axes.context is None or self._layout.at_once:
            return
        results = [total.result for total in self.gradients if total.result.size]
        for request in [start_context_sum(self.axes.context, result) for result in results]:
            request.wait()

    def _mean(self, losses: dict[int, float], leaves: "Sequence[range]", targets: int) -> float:
        """The tree sum of all leaves' losses, which are on the ranks of the last stage.

        That of a micro-batch is the sum of what the context-parallel ranks have.
        """
        values = np.zeros((leaves[-1].stop, self.axes.context_size))
        if self.axes.tensor_rank == 0:  # the others have the same
            for micro, loss in losses.items():
                values[micro, self.axes.context_rank] = loss
        with self.timeline.on("communication", "loss"):
            micros = [tree_total(row) for row in self.comm.allreduce(values)]
        return self._of_leaves(micros, leaves) / targets

    @staticmethod
    def _of_leaves(micros: "Sequence[float]", leaves: "Sequence[range]") -> float:
        return tree_total(np.array([sum(micros[micro] for micro in leaf) for leaf in leaves]))
