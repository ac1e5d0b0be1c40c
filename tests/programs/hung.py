"""`hpcpar.train` with a rank that hangs: `python tests/programs/hung.py RANK STEP ...`.

RANK never comes to the update of STEP; the rest are arguments of training.
"""

import sys
from typing import Any

from mpi4py import MPI

import hpcpar.train
from hpcpar.entry import run_ranks
from hpcpar.recovery import Crew

HUNG, STEP = int(sys.argv[1]), int(sys.argv[2])


class HangingCrew(Crew):
    """Its update hangs, on one rank."""

    def update(self, step: int, rate: float, scale: float) -> None:
        """Never ends on that rank."""
        while (MPI.COMM_WORLD.Get_rank(), step) == (HUNG, STEP):
            pass
        super().update(step, rate, scale)


if __name__ == "__main__":
    training: Any = hpcpar.train
    training.Crew = HangingCrew
    run_ranks(lambda world: hpcpar.train.main(sys.argv[3:], world))
