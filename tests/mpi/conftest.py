import pytest

from hpcpar.comm import Communicator


@pytest.fixture(scope="session")
def comm():
    with Communicator(timeout=20) as communicator:
        yield communicator
