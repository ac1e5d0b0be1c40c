"""The keeper holds memory of processes that are gone, for those who know the name of the job."""

import os
import secrets
import time

import numpy as np
import pytest

from hpcpar.apart.keeper import start_keeper, to_keeper
from hpcpar.comm.shared_memory import HostMemory

LIMIT = 10  # seconds


@pytest.fixture
def job():
    return secrets.token_hex(8)


def keep(line, generation, number, value):
    """Memory full of a value, which nobody but the keeper has afterwards."""
    memory = HostMemory()
    array, _ = memory.allocate(100)
    line.send({"keep": [generation, number]}, [memory.descriptor])
    assert line.receive() == [{"kept": [generation, number]}]
    array[:] = value  # also what is written later
    memory.close()


def listed(line):
    """What it holds: generation, number and first byte."""
    line.send({"list": True})
    (answer,) = line.receive()
    found = []
    for generation, number, *place, size in answer["kept"]:
        array = HostMemory().open(np.array(place, np.uint64).tobytes(), size)
        found.append((generation, number, int(array[0]), len(array)))
    return found


def ended(pid):
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return True
        time.sleep(0.02)
    return False


def test_it_holds_what_it_is_given_until_it_is_done(job):
    pid = start_keeper(job)
    line, other = to_keeper(job), to_keeper(job)
    for number in (1, 0):
        keep(line, 1, number, 10 + number)
    keep(other, 2, 0, 20)
    assert listed(line) == [(1, 0, 10, 100), (1, 1, 11, 100), (2, 0, 20, 100)]
    keep(other, 2, 0, 21)
    line.send({"forget": 2})
    assert listed(line) == [(2, 0, 21, 100)]
    line.close()
    assert listed(other) == [(2, 0, 21, 100)], "whoever gave it is gone"
    other.send({"done": True})
    assert listed(other), "it is there as long as anybody is"
    other.close()
    assert ended(pid)


def test_it_ends_with_the_process_that_it_belongs_to(job):
    pid = start_keeper(job, parent=1)  # which this process is not
    assert ended(pid)


def test_there_is_one_of_each_name(job):
    pid = start_keeper(job)
    with pytest.raises(OSError, match="in use"):
        start_keeper(job)
    with pytest.raises(OSError, match="refused"):
        to_keeper(job + "x")
    line = to_keeper(job)
    line.send({"done": True})
    line.close()
    assert ended(pid)


def test_what_makes_no_sense_is_dropped(job):
    pid = start_keeper(job)
    line = to_keeper(job)
    random = np.random.default_rng(1)
    words = [b'{"keep": [1, 2]}', b'{"keep": "x"}', b'{"forget": []}', b"[]", b"{", b'{"list": 1}']
    for _ in range(1000):
        noise = random.bytes(random.integers(0, 30)) if random.random() < 0.5 else b""
        line.socket.sendall(bytes(random.choice(words[:5])) + noise + b"\n")
    line.socket.sendall(b"\n")
    assert listed(line) == []
    line.send({"done": True})
    line.close()
    assert ended(pid)
