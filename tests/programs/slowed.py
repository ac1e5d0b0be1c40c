"""`hpcpar.train` with work that is slept: `python tests/programs/slowed.py SPEEDS SECONDS ...`.

A micro-batch takes a rank SECONDS / its speed more, shared by the stages of a pipeline as their
layers cost; SPEEDS are numbers joined by commas, by rank, the last one for all that follow. With
SECONDS+DELAY every step takes each rank longer by an exponential delay of that mean, drawn from its
number. So two cores can show what many would do. The rest are arguments of training.
"""

import random
import sys
import time
from typing import Any

from mpi4py import MPI

import hpcpar.train
from hpcpar.entry import run_ranks
from hpcpar.parallel.training import ParallelModel

RANK = MPI.COMM_WORLD.Get_rank()
SPEEDS = [float(word) for word in sys.argv[1].split(",")]
SPEED = SPEEDS[min(RANK, len(SPEEDS) - 1)]
SECONDS, DELAY = map(float, (*sys.argv[2].split("+"), "0")[:2])
draw = random.Random(RANK)
compute = ParallelModel._compute


def slowed(model: ParallelModel, slots: Any, *arguments: Any) -> dict[int, float]:
    """As it is, and slower."""
    found = compute(model, slots, *arguments)
    work, pipeline = model.work, model.dealt.pipeline
    share = work.cost(model.axes.stage, pipeline) / sum(work.costs)
    micros = sum(slot.micro >= 0 for slot in slots)
    with model.timeline.on("compute", "slept"):
        time.sleep(SECONDS * share * micros / SPEED + (draw.expovariate(1 / DELAY) if DELAY else 0))
    return found


if __name__ == "__main__":
    slow: Any = ParallelModel
    slow._compute = slowed
    run_ranks(lambda world: hpcpar.train.main(sys.argv[3:], world))
