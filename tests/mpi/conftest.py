from collections.abc import Iterator

import pytest

from hpcpar.comm import Communicator


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
