from collections.abc import Iterator

import pytest

from hpcpar.comm import Communicator


@pytest.fixture(scope="session")
def comm() -> Iterator[Communicator]:
    with Communicator(timeout=20) as communicator:
        yield communicator
