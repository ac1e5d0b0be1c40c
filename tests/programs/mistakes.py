"""Commands that hpcpar refuses, all in one launch: `mpirun -n 2 python mistakes.py FILE`.

FILE is JSON: a list of [MODULE, *ARGUMENTS], each of them run as `python -m MODULE ARGUMENTS` would
be, in the folder of FILE. Each rank writes FILE.RANK: for each its exit status, and what was said.
"""

import contextlib
import io
import json
import os
import runpy
import sys
from pathlib import Path

from mpi4py import MPI


def run(module: str, *arguments: str) -> dict[str, object]:
    """What a command says, and the status that it ends with."""
    sys.argv = [module, *arguments]
    status: object = None
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as end:
            status = end.code
    return {"status": status, "stdout": out.getvalue(), "stderr": err.getvalue()}


def main(file: Path) -> None:
    os.chdir(file.parent)
    said = [run(*command) for command in json.loads(file.read_text())]
    file.with_name(f"{file.name}.{MPI.COMM_WORLD.rank}").write_text(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
