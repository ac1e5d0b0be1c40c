"""How a program of several ranks ends: the exit status, and who says what."""

import pytest

PROGRAM = """
import time
import numpy as np
from hpcpar.comm import Communicator, together
from hpcpar.entry import run_ranks
from hpcpar.errors import UserError

def main(world):
    comm = Communicator(world.mpi, device="cpu", timeout=1)
    {body}

run_ranks(main)
"""

CASES = {
    "done": ("comm.barrier()", 0, []),
    "mistake": (
        "with together(comm):\n        if comm.rank == 1: raise UserError('no such thing')",
        2,
        ["hpcpar: rank 1: no such thing"],
    ),
    "hang": (
        "time.sleep(30) if comm.rank == 1 else comm.allreduce(np.ones(9))",
        3,
        ["hpcpar: rank 1 never entered allreduce #1 (program.py:10)", "outside of hpcpar"],
    ),
    "surprise": ("comm.barrier(); 1 // comm.rank", 1, ["rank 0: Traceback", "ZeroDivisionError"]),
}


@pytest.mark.parametrize("case", CASES)
def test_status_and_words(mpirun, tmp_path, case):
    body, status, words = CASES[case]
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(body=body))
    done = mpirun(2, program, limit=20)
    assert done.returncode == status, done.stdout + done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert done.stderr.count("hpcpar: ") == (status in (2, 3))
    assert done.stderr.count("Traceback") == (status == 1)


def test_a_hang_in_a_script_of_ones_own(mpirun, tmp_path):
    """One sentence and one table for all ranks, and status 3, without any help of the script."""
    program = tmp_path / "script.py"
    program.write_text(
        "import time, numpy as np, hpcpar\n"
        "comm = hpcpar.Communicator(device='cpu', timeout=1)\n"
        "comm.allreduce(np.ones(9))\n"
        "if comm.rank == 2: comm.recv(np.ones(9), 1)\n"
        "comm.allreduce(np.ones(9))\n"
    )
    done = mpirun(4, program, limit=30)
    assert done.returncode == 3, done.stdout + done.stderr
    said = done.stderr
    # Told of the call of whoever asked first: the others', or that of rank 2.
    sentences = ("rank 2 never entered allreduce #2 (script.py:5)", "rank 2 waits in recv from 1")
    assert sum(said.count(sentence) for sentence in sentences) == 1, said
    assert said.count("allreduce #2, 72 B") == 3 and said.count("rank  host") == 1, said
    assert "Traceback" not in said
