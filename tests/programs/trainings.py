"""Several trainings, for the price of one launch: `mpirun -n 8 python trainings.py FILE`.

FILE is JSON: a list of [RANKS, *ARGUMENTS]. One after the other, the first RANKS ranks do what
`mpirun -n RANKS python -m hpcpar.train ARGUMENTS` does. Rank 0 writes FILE.said: what each has
printed on any rank, standard output and error.
"""

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import hpcpar.train
from hpcpar.comm import Communicator
from hpcpar.entry import run_ranks


def run(part: Communicator, arguments: list[str]) -> tuple[str, str]:
    """A training on the ranks of a communicator; what this one prints."""
    training: Any = hpcpar.train
    training.Communicator = lambda **options: Communicator(part.mpi, **options)
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        hpcpar.train.main(arguments, part)
    return out.getvalue(), err.getvalue()


def main(file: Path, world: Communicator) -> None:
    told = []
    for ranks, *arguments in json.loads(file.read_text()):
        part = world.split(0 if world.rank < ranks else None)
        said = "", ""
        if part is not None:
            with part:
                said = run(part, arguments)
        told.append(["".join(texts) for texts in zip(*world.mpi.allgather(said), strict=True)])
    if world.rank == 0:
        file.with_name(f"{file.name}.said").write_text(json.dumps(told))


if __name__ == "__main__":
    run_ranks(lambda world: main(Path(sys.argv[1]), world))
