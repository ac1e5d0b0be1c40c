"""A rank is lost between two calls: `mpirun -n 3 python tests/programs/lost.py HOW FOLDER`.

HOW: raises (an error that nobody catches), exits (as if it were done), stops (SIGSTOP), dies
(SIGKILL). The others write what they raise into FOLDER/RANK, and end with status 3.
"""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

import hpcpar
from hpcpar.errors import EXIT_HANG, HangError

LOST = 1


def lose(how: str) -> None:
    """End or stop this rank."""
    if how == "raises":
        raise ZeroDivisionError("a mistake in the program")
    if how == "exits":
        sys.exit(0)
    os.kill(os.getpid(), signal.SIGSTOP if how == "stops" else signal.SIGKILL)


def main(how: str, folder: Path) -> None:
    comm = hpcpar.Communicator(check=True, timeout=1)
    comm.barrier()
    if comm.rank == LOST:
        lose(how)
    try:
        comm.allreduce(np.ones(4))  # the line
    except HangError as error:
        (folder / str(comm.rank)).write_text(str(error))
        end = time.monotonic() + 10
        while len(list(folder.iterdir())) < comm.size - 1 and time.monotonic() < end:
            time.sleep(0.01)  # the launcher ends all as soon as one has ended so
        os._exit(EXIT_HANG)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
