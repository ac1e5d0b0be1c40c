"""One rank of a test launch: `python tests/rank.py FOLDER PYTEST_ARGUMENTS...`.

Rank 0 speaks on the screen, the others into FOLDER/rankN.txt; each records its events in
FOLDER/rankN.jsonl. The status is 0 when pytest came to its end, whatever the tests said: mpirun
would otherwise end the other ranks before they have told their side.
"""

import os
import sys
from pathlib import Path

import pytest
from record import Record

RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")  # Open MPI, any with PMIx, MPICH


def main(folder: Path, arguments: list[str]) -> int:
    rank = next((int(os.environ[name]) for name in RANK_VARIABLES if name in os.environ), 0)
    if rank > 0:
        # By descriptor, so that what C libraries print goes there too.
        file = os.open(folder / f"rank{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
    status = pytest.main(arguments, plugins=[Record(folder / f"rank{rank}.jsonl")])
    orderly = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
    return 0 if status in orderly else int(status)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
