"""`hpcpar.train` on two nodes, of which the second fails: `node_fails.py HOW STEP ...`.

HOW is ranks (all of that node are killed at the update of STEP) or cut (its network is gone). The
rest are arguments of training. For benchmarks/two_nodes.sh.
"""

import os
import signal
import socket
import subprocess
import sys
from typing import Any

import hpcpar.train
from hpcpar.entry import run_ranks
from hpcpar.recovery import Crew

HOW, STEP = sys.argv[1], int(sys.argv[2])


class FailingCrew(Crew):
    """Its second node fails."""

    def update(self, step: int, rate: float, scale: float) -> None:
        """Not on that node."""
        if socket.gethostname() == "node1" and step == STEP:
            if HOW == "ranks":
                os.kill(os.getpid(), signal.SIGKILL)
            subprocess.run(["ip", "link", "set", "eth0", "down"], check=False)
        super().update(step, rate, scale)


if __name__ == "__main__":
    training: Any = hpcpar.train
    training.Crew = FailingCrew
    run_ranks(lambda world: hpcpar.train.main(sys.argv[3:], world))
