"""Run the wrong programs for as many ranks: `mpirun -n N python run_wrong.py FOLDER`.

Each rank writes FOLDER/N-RANK.json: for every program what it raised ("Kind: text", or None), and
whether the communicator could still be used afterwards, as it has to be after a mismatch.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from programs.wrong import PROGRAMS, Program

import hpcpar

LIMITS = {"mismatch": 5.0, "hang": 1.0}  # seconds: a mismatch that takes longer is a HangError


def raised(program: Program, comm: hpcpar.Communicator) -> str | None:
    """What this rank says of a program."""
    try:
        program.run(comm)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def usable(comm: hpcpar.Communicator) -> bool:
    """Whether a right call has a right result."""
    return bool(np.all(comm.allreduce(np.full(3, comm.rank + 1.0)) == sum(range(comm.size + 1))))


def main(folder: Path) -> None:
    everybody = hpcpar.Communicator()
    results = {}
    for name, program in PROGRAMS.items():
        if program.ranks != everybody.size:
            continue
        comm = hpcpar.Communicator(check=True, timeout=LIMITS[program.kind])
        said = raised(program, comm)
        everybody.barrier()  # those that do not wait must not hurry on
        if program.kind == "mismatch":
            results[name] = {"raised": said, "usable": usable(comm)}
            comm.close()
        else:
            results[name] = {"raised": said}
    (folder / f"{everybody.size}-{everybody.rank}.json").write_text(json.dumps(results))
    everybody.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
