"""`hpcpar.train` with a rank that computes wrongly: `python tests/programs/flipped.py RANK ...`.

RANK flips a bit in the gradient of its second layer, always; the rest are arguments of training.
"""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from faults import flipped_gradient

import hpcpar.train
from hpcpar.comm import Communicator
from hpcpar.entry import run_ranks
from hpcpar.parallel import ParallelModel, parallelize


def main(faulty: int, arguments: list[str], world: Communicator) -> None:
    with ExitStack() as faults:

        def parallelized(*given: Any, **more: Any) -> ParallelModel:
            model = parallelize(*given, **more)
            if world.rank == faulty:
                faults.enter_context(flipped_gradient(model, layer=1, element=7, bit=20))
            return model

        training: Any = hpcpar.train
        training.parallelize = parallelized
        hpcpar.train.main(arguments, world)


if __name__ == "__main__":
    run_ranks(lambda world: main(int(sys.argv[1]), sys.argv[2:], world))
