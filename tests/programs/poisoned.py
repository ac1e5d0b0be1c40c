"""`hpcpar.train` with gradients that jump: `python tests/programs/poisoned.py POISON STEPS ...`.

The gradient that goes into the sums is multiplied by POISON (nan or a factor) on the rank that has
leaf 0, at STEPS, a list such as 5,9; the rest are arguments of training.
"""

import sys
from typing import Any

import hpcpar.train
from hpcpar.data import Part
from hpcpar.entry import run_ranks
from hpcpar.parallel import ParallelModel
from hpcpar.recovery import Audit
from hpcpar.recovery.record import Witnessed

POISON, STEPS = float(sys.argv[1]), {int(step) for step in sys.argv[2].split(",")}


class Poison(Witnessed):
    """It changes what it is shown."""

    def gradient(self, bucket: int, array: Any) -> None:
        """Of leaf 0, before it goes into the sum."""
        array *= POISON


class PoisonedAudit(Audit):
    """Of no leaf; it computes the gradients."""

    def loss_and_gradients(self, step: int, part: Part, indices: Any) -> float:
        """The model's, poisoned at some steps."""
        if step not in STEPS:
            return super().loss_and_gradients(step, part, indices)
        model: ParallelModel = self._model
        mine = model.leaf_owners[0] == model.axes.data_rank
        return model.loss_and_gradients(part, indices, Poison(0) if mine else None)


if __name__ == "__main__":
    training: Any = hpcpar.train
    training.Audit = PoisonedAudit
    run_ranks(lambda world: hpcpar.train.main(sys.argv[3:], world))
