"""`hpcpar.train` whose servers are killed: `python tests/programs/server_dies.py WHAT ...`.

WHAT is RANK@LETTERS, several joined by commas: the rank sends itself SIGKILL when it has heard so
many letters, before it does anything about the last one; on a worker it is RANK@STEP, and SIGUSR1,
or the one that HPCPAR_BLOW names, before it pushes. The rest are arguments of training.
"""

import os
import signal
import sys
from typing import Any

import hpcpar.train
import hpcpar.train_servers
from hpcpar.entry import run_ranks
from hpcpar.sync.client import Client
from hpcpar.sync.server import Server

WHAT = {int(rank): int(letters) for rank, letters in
        (word.split("@") for word in sys.argv[1].split(","))}  # fmt: skip


class DyingServer(Server):
    """It counts letters."""

    heard = 0

    def hear(self, source: int, words: dict[str, Any], arrays: Any = ()) -> None:
        """As it is, or not at all."""
        self.heard += 1
        if self.heard == WHAT.get(self._rank):
            os.kill(os.getpid(), signal.SIGKILL)
        super().hear(source, words, arrays)


class AskedClient(Client):
    """It is asked to stop."""

    def push(self, step: int, *arguments: Any) -> None:
        """As it is, after the signal."""
        if step == WHAT.get(self._rank):
            os.kill(os.getpid(), signal.Signals[os.environ.get("HPCPAR_BLOW", "SIGUSR1")])
        super().push(step, *arguments)


if __name__ == "__main__":
    serving: Any = hpcpar.train_servers
    serving.Server, serving.Client = DyingServer, AskedClient
    run_ranks(lambda world: hpcpar.train.main(sys.argv[2:], world))
