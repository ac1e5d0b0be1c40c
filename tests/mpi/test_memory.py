"""The state in memory: put together again by other ranks, on another layout."""

import secrets

import numpy as np
import pytest
from checkpoint_runs import Run
from long import only_on

from hpcpar.comm import agree
from hpcpar.device import to_host
from hpcpar.parallel.state import collect, collect_state, fill
from hpcpar.recovery.memory import Memory

pytestmark = pytest.mark.mpi

LAYOUTS = [{"zero": 0}, {"zero": 3}, {"pipeline": 2, "zero": 1}, {"tensor": 2}]


@pytest.fixture
def job(comm):
    return agree(comm, secrets.token_hex(8) if comm.rank == 0 else None)[0]


def whole(model):
    """Weights and optimizer state; on rank 0."""
    return {"weights": collect(model) or {}, **collect_state(model)}


def same(one, other):
    return one.keys() == other.keys() and all(
        np.array_equal(one[kind][name], other[kind][name]) for kind in one for name in one[kind]
    )


def recall(memory, run):
    def take(name, kind, tensor):
        fill(run.model, name, tensor, kind)

    for flat in run.model.update.optimizer.flat_state.values():
        flat.fill(-1)
    return memory.recall(run.model, take)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_ranks_put_it_together(comm, job, layout):
    """On one rank less, in one piece; the newest state, if all of it was written."""
    if comm.size % (layout.get("pipeline", 1) * layout.get("tensor", 1)):
        pytest.skip("the ranks do not fit")
    only_on(comm.size, 1, 2, 3, 4)
    run = Run(comm, "gpt", **layout)
    memory = Memory(comm, job)
    memory.open(run.model)
    memory.forget_others()
    states = []
    for step in (1, 2, 3):
        run.step(step)
        states.append(whole(run.model))
        if step < 3 or comm.rank < comm.size - 1:  # the last rank is killed before
            memory.write(run.model, step, ["told", step])
    newest = 3 if comm.size == 1 else 2
    if comm.size == 1:
        memory.write(run.model, 3, ["told", 3])
    memory.close()
    run.mesh.close()

    fewer = comm.split(0 if comm.rank < max(1, comm.size - 1) else None)
    if fewer is not None:
        with fewer:
            after = Run(fewer, "gpt")
            again = Memory(fewer, job)
            assert recall(again, after) == (newest, ["told", newest])
            found = whole(after.model)
            assert fewer.rank or same(states[newest - 1], found)
            again.open(after.model)
            again.write(after.model, newest, None)
            again.forget_others()
            again.done()
            again.close()
            after.mesh.close()


def test_what_nobody_has_is_not_made_up(comm, job):
    """Where a node is lost, whole tensors may be missing: nothing is set."""
    only_on(comm.size, 2)
    if comm.size != 2:
        pytest.skip("for two ranks")
    run, memory = Run(comm, "gpt", pipeline=2), Memory(comm, job)
    memory.open(run.model)
    if comm.rank == 0:
        memory.write(run.model, 1, None)
    memory.close()
    again, before = Memory(comm, job), whole(run.model)["weights"]
    assert recall(again, run) is None
    assert same({"weights": before}, {"weights": whole(run.model)["weights"]})
    assert all(
        np.all(to_host(flat) == -1) for flat in run.model.update.optimizer.flat_state.values()
    )
    again.done()
    again.close()
    run.mesh.close()


def test_what_is_older_than_the_disk_is_not_gone_back_to(comm, job, monkeypatch):
    """Where there is no room for more nothing is kept from here on, nor what was before."""
    only_on(comm.size, 2)
    run, memory = Run(comm, "gpt"), Memory(comm, job)
    memory.open(run.model)
    memory.write(run.model, 1, None)
    memory.forget_others()
    assert recall(memory, run) == (1, None)

    def refuse(size):
        raise OSError(f"{size} bytes are needed")

    monkeypatch.setattr("hpcpar.recovery.memory.check_memory", refuse)
    memory.open(run.model)
    memory.write(run.model, 2, None)
    memory.forget_others()
    assert recall(memory, run) is None
    memory.done()
    memory.close()
    run.mesh.close()
