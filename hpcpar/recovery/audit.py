"""A wrong bit names its rank: leaves of the gradient are computed a second time, elsewhere.

The gradient of a leaf is a pure function of the weights and the samples, and has the same bits on
every data-parallel rank. So before the update another one computes a leaf again, and digests of
both are compared. A *column* here is what computes a leaf together: a data-parallel rank with its
pipeline, context and tensor ranks.
"""

import socket
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np
from mpi4py import MPI

from hpcpar.comm import agree
from hpcpar.errors import AuditError
from hpcpar.parallel.holdings import Holdings
from hpcpar.recovery.events import Events
from hpcpar.recovery.record import COLUMNS, Witnessed, first_differences, read
from hpcpar.recovery.turns import Turn, turn_of
from hpcpar.recovery.verdict import Attempt, Verdict, judge, next_to_compute
from hpcpar.recovery.words import Blame, describe

if TYPE_CHECKING:
    from hpcpar.data import Part
    from hpcpar.parallel import ParallelModel

__all__ = ["Audit"]

MOST_REPEATS = 3


class Audit:
    """Every `every` steps one leaf is audited; 0 for never.

    `repeats`: whether a step in which a fault was found that passes is computed again: three times,
    for a rank that has such faults again and again is no good. `events` is told of it.

    >>> loss = audit.loss_and_gradients(step, part, indices)    # the model's, and audited
    """

    def __init__(
        self,
        model: "ParallelModel",
        every: int,
        repeats: bool = False,
        events: Events | None = None,
    ) -> None:
        self._events = events or Events()
        self._model, self._every, self._axes = model, every, model.axes
        self._repeats = MOST_REPEATS if repeats else 0

    @property
    def notes(self) -> list[str]:
        """What the user should know."""
        if self._every and self._axes.data_size == 1:
            return [
                "--audit finds only passing faults here, by computing leaves twice on the same "
                "rank: with --parallel.data 2 or more another one computes them"
            ]
        return []

    def loss_and_gradients(self, step: int, part: "Part", indices: np.ndarray) -> float:
        """The model's. Collective.

        Raises `AuditError` on all ranks alike; the weights are then still those of the step, and
        the gradient, which may be wrong, is not used.
        """
        for _ in range(self._repeats):
            try:
                return self._audited(step, part, indices)
            except AuditError as error:
                if error.lasting:
                    raise
                again = f"{error}; the step is computed once more"
                self._events.note("audit", again, step, self._model.comm)
        return self._audited(step, part, indices)

    def _audited(self, step: int, part: "Part", indices: np.ndarray) -> float:
        turn = self._turn(step)
        if turn is None:
            return self._model.loss_and_gradients(part, indices)
        first = Witnessed(turn.leaf)
        owner = turn.owner == self._axes.data_rank
        loss = self._model.loss_and_gradients(part, indices, first if owner else None)
        self._check(step, turn, first, part, indices)
        return loss

    def _check(
        self, step: int, turn: Turn, first: Witnessed, part: "Part", indices: np.ndarray
    ) -> None:
        """Compute the leaf again, and compare with what was there first."""
        timeline = self._model.timeline
        recorded, timeline.record = timeline.record, False  # it is no part of the schedule
        again = self._again(turn.auditor, turn, part, indices)
        attempts = self._gather([(turn.owner, first), (turn.auditor, again)])
        while (rank := next_to_compute(attempts, turn)) is not None:
            attempts += self._gather([(rank, self._again(rank, turn, part, indices))])
        timeline.record = recorded
        verdict = judge(attempts)
        if verdict is not None:
            raise self._error(step, turn, verdict)

    def _turn(self, step: int) -> Turn | None:
        if not self._every or step % self._every:
            return None
        number = step // self._every - 1
        return turn_of(number, self._model.leaf_owners, self._axes.data_size)

    def _again(self, rank: int, turn: Turn, part: "Part", indices: np.ndarray) -> Witnessed:
        witnessed = Witnessed(turn.leaf)
        self._model.leaf_again(rank, part, indices, witnessed)
        return witnessed

    def _gather(self, computed: Sequence[tuple[int, Witnessed]]) -> list[Attempt]:
        """What the data-parallel ranks that are named have computed, on all ranks."""
        mine = [
            np.insert(witnessed.rows(self._axes.place), 0, number, axis=1)
            for number, (rank, witnessed) in enumerate(computed)
            if rank == self._axes.data_rank
        ]
        nothing = np.empty((0, 1 + COLUMNS), np.uint64)
        with self._model.timeline.on("communication", "audit"):
            rows = self._model.comm.allgather(np.concatenate([nothing, *mine]))
        return [
            Attempt(rank, read(rows[rows[:, 0] == number, 1:].tolist()))
            for number, (rank, _) in enumerate(computed)
        ]

    def _error(self, step: int, turn: Turn, verdict: Verdict) -> AuditError:
        comm, axes = self._model.comm, self._axes
        hosts = agree(comm, socket.gethostname())
        here = [axes.data_rank, axes.place, MPI.COMM_WORLD.Get_rank()]
        rank_at = {(column, p): r for column, p, r in comm.allgather(np.array([here])).tolist()}
        host_of = dict(zip(rank_at.values(), hosts, strict=True))
        blames, ranks = [], list[int]()
        for column, own, other in verdict.wrong:
            places_there, buckets = first_differences(own, other)
            there = [rank_at[column, place] for place in places_there]
            ranks += there
            layers = dict.fromkeys(self._name(*bucket) for bucket in buckets)
            blames.append(Blame(there, [host_of[rank] or "" for rank in there], list(layers)))
        message = describe(step, turn.leaf, blames, verdict, alone=axes.data_size == 1)
        return AuditError(message, tuple(sorted(ranks)), step, turn.leaf, verdict.lasting)

    def _name(self, place: int, bucket: int) -> str:
        """Of the parameters in a bucket of the rank at a place: what their names have in common."""
        axes, held = self._axes, self._model.holdings
        stage = place // (axes.context_size * axes.tensor_size)
        there = Holdings(self._model.model, held.every, stage, axes.pipeline_size, axes.data_size)
        names = [parameter.name.split(".") for parameter in there.buckets[bucket].parameters]
        same = takewhile(lambda parts: len(set(parts)) == 1, zip(*names, strict=False))
        return ".".join(part for part, *_ in same) or names[0][0]
