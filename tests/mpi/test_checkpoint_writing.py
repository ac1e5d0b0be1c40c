"""Writing checkpoints on many ranks: what goes wrong is told by all, and nothing of it is left."""

import errno
import json
import os
import threading

import numpy as np
import pytest
from checkpoint_runs import running
from long import only_on

from hpcpar import checkpoint
from hpcpar.checkpoint import resume, writer
from hpcpar.checkpoint.places import MANIFEST
from hpcpar.comm import Communicator, together
from hpcpar.errors import UserError
from hpcpar.parallel.state import owned

pytestmark = pytest.mark.mpi


def test_advance_finishes_it(comm, shared_path):
    """Without anybody waiting for it; one that is begun before is finished first."""
    only_on(comm.size, 1, 3)
    with (
        running(comm, "mlp") as run,
        checkpoint.Writer(run.model, shared_path if comm.rank == 0 else None, 2) as saving,
    ):
        saving.advance()  # nothing is under way
        for step in (1, 2, 3):
            saving.begin(step, (0, 0))
        looks = 0
        while saving.under_way and looks < 1_000_000:
            saving.advance()
            looks += 1
        assert not saving.under_way
    comm.barrier()
    assert sorted(os.listdir(shared_path)) == ["step-00000002", "step-00000003"]


def refused(comm, folder, words, step=2):
    """A checkpoint that cannot be written: all say so, nothing of it is left, the next one can."""
    with (
        running(comm, "mlp") as run,
        checkpoint.Writer(run.model, folder if comm.rank == 0 else None, 2) as saving,
    ):
        yield run, saving
        with pytest.raises(UserError, match=words):
            saving.begin(step, (0, 0))
            saving.finish()
        comm.barrier()
        assert sorted(os.listdir(folder)) == ["step-00000001"]
        comm.barrier()
        yield run, saving
        saving.begin(step, (0, 0))
        saving.finish()
        comm.barrier()
        assert sorted(os.listdir(folder)) == ["step-00000001", f"step-{step:08d}"]
    comm.barrier()


@pytest.mark.parametrize("call", ["write", "fsync", "open", "rename", "mkdir"])
def test_a_disk_that_is_full_or_read_only(comm, shared_path, monkeypatch, call):
    """On the last rank; what only rank 0 does fails there."""
    only_on(comm.size, 1, 3)
    code = errno.EROFS if call in ("open", "mkdir") else errno.ENOSPC
    victim = comm.size - 1 if call in ("write", "fsync", "open") else 0

    def fail(first, *more, **named):
        if call != "open" or more[0] & os.O_CREAT:
            raise OSError(code, os.strerror(code))
        return real(first, *more, **named)

    real = getattr(os, call)
    story = refused(comm, shared_path, f"cannot be written: .*{os.strerror(code)}")
    _, saving = next(story)
    saving.begin(1, (0, 0))
    saving.finish()
    if comm.rank == victim:
        monkeypatch.setattr(os, call, fail)
    next(story)
    monkeypatch.undo()
    assert next(story, None) is None


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("there", [False, True], ids=["no folder there", "another folder there"])
def test_a_folder_that_nodes_do_not_share(comm, shared_path, tmp_path, there):
    only_on(comm.size, 2, 3)
    story = refused(comm, shared_path, "file system that all nodes share")
    _, saving = next(story)
    saving.begin(1, (0, 0))
    saving.finish()
    shared = saving._folder
    if comm.rank == comm.size - 1:
        saving._folder = tmp_path
        if there:
            (tmp_path / ".step-00000002.partial").mkdir()
    next(story)
    saving._folder = shared
    assert next(story, None) is None


def test_weights_that_are_no_numbers(comm, shared_path):
    only_on(comm.size, 1, 3)
    story = refused(comm, shared_path, "after step 2 .* no numbers: lower --optim.lr")
    run, saving = next(story)
    saving.begin(1, (0, 0))
    saving.finish()
    mine = [array for _, array in owned(run.model) if array.size]
    speaks = comm.allreduce(np.array([comm.rank if mine else -1]), op="max")[0] == comm.rank
    before = mine[0][0] if mine else 0
    if speaks:
        mine[0][0] = np.nan
    next(story)
    if speaks:
        mine[0][0] = before
    assert next(story, None) is None


def test_a_disk_that_does_not_answer(comm, shared_path, monkeypatch):
    """The wait ends, on all ranks."""
    only_on(comm.size, 1, 3)
    gate = threading.Event()
    if comm.rank == comm.size - 1:
        monkeypatch.setattr(writer, "write_part", lambda *arguments: gate.wait(60))
    with Communicator(timeout=1) as own, running(own, "mlp") as run:
        saving = checkpoint.Writer(run.model, shared_path if comm.rank == 0 else None, 2)
        saving.begin(1, (0, 0))
        with pytest.raises(UserError, match="the disk has done nothing for 1 s"):
            saving.finish()
        gate.set()
        own.barrier()
        assert os.listdir(shared_path) == []


def test_reading_may_take_longer_than_a_wait(comm, shared_path, monkeypatch):
    """As long as it gets on."""
    only_on(comm.size, 3)
    gate = threading.Event()

    def slow(folder, warn, moved):
        while not gate.wait(0.1):
            if warn is not None:
                moved(1)

    monkeypatch.setattr(resume, "load_latest", slow)
    threading.Timer(1.5, gate.set).start()
    with Communicator(timeout=1) as own:
        folder = shared_path if comm.rank == 0 else None
        assert checkpoint.find_latest(own, folder, pytest.fail) is None
        assert gate.is_set()
        gate.clear()
        with pytest.raises(UserError, match="cannot be read: the disk has done nothing for 1 s"):
            checkpoint.find_latest(own, folder, None)
        gate.set()


def test_what_a_crashed_run_has_begun_is_removed(comm, shared_path):
    only_on(comm.size, 1, 3)
    if comm.rank == 0:
        (shared_path / ".step-00000007.partial").mkdir()
        (shared_path / ".step-00000007.partial" / "part-0000.safetensors").write_text("x")
    comm.barrier()
    with (
        running(comm, "mlp") as run,
        checkpoint.Writer(run.model, shared_path if comm.rank == 0 else None, 2),
    ):
        assert os.listdir(shared_path) == []


def test_a_run_that_ends_with_a_mistake_keeps_what_is_under_way(comm, shared_path):
    only_on(comm.size, 1, 3)
    with running(comm, "mlp") as run:
        saving = checkpoint.Writer(run.model, shared_path if comm.rank == 0 else None, 2)
        with pytest.raises(UserError, match="the loss"), saving:
            saving.begin(1, (0, 0), balance={"speeds": [1, 2]})
            raise UserError("the loss is no number")
    comm.barrier()
    (place,) = checkpoint.list_checkpoints(shared_path)
    assert checkpoint.load(place).facts.balance == {"speeds": [1, 2]}
    assert len(json.loads((place / MANIFEST).read_text())["files"]) == comm.size


def test_what_can_no_longer_be_read_is_told_by_all(comm, shared_path):
    only_on(comm.size, 1, 3)
    with running(comm, "mlp") as run:
        with checkpoint.Writer(run.model, shared_path if comm.rank == 0 else None, 2) as saving:
            saving.begin(1, (0, 0))
        with together(comm):
            saved = checkpoint.load_latest(shared_path, pytest.fail) if comm.rank == 0 else None
            for path in shared_path.rglob("part-*") if comm.rank == 0 else ():
                path.write_bytes(b"")
        with pytest.raises(UserError, match="has become shorter"):
            checkpoint.restore(run.model, saved)
