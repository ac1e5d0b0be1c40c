from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcpar.comm import Communicator, agree


@pytest.fixture(scope="session")
def comm() -> Iterator[Communicator]:
    """Where ranks compare what they are about to do."""
    with Communicator(check=True, timeout=20) as communicator:
        yield communicator


@pytest.fixture(scope="session")
def unchecked() -> Iterator[Communicator]:
    """For tests of what happens without the comparison."""
    with Communicator(timeout=20) as communicator:
        yield communicator


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def on_device(request: pytest.FixtureRequest) -> Iterator[Communicator]:
    """One for host arrays, and one for GPU arrays where there is a GPU; ranks compare too."""
    with Communicator(device=request.param, check=True, timeout=20) as communicator:
        yield communicator


@pytest.fixture
def shared_path(comm: Communicator, tmp_path: Path) -> Iterator[Path]:
    """An empty folder, the same on all ranks."""
    told = agree(comm, str(tmp_path) if comm.rank == 0 else None)
    yield Path(told[0] or "")
    comm.barrier()
