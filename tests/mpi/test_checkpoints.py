"""Checkpoints of many ranks: written beside the training, read by any other layout."""

import errno
import json
import os
import sys
import threading
from contextlib import contextmanager
from itertools import product

import numpy as np
import pytest
from long import LONG, only_on
from small_models import small_model

import hpcpar
from hpcpar import checkpoint
from hpcpar.checkpoint import part_file, writer
from hpcpar.checkpoint.places import MANIFEST
from hpcpar.comm import Communicator, together
from hpcpar.device import to_host
from hpcpar.errors import UserError
from hpcpar.parallel import BatchConfig, ParallelConfig, parallelize
from hpcpar.parallel.state import owned

pytestmark = pytest.mark.mpi

RESTORE = sys.modules["hpcpar.checkpoint.restore"]  # the module; the function has its name

BATCH = BatchConfig(size=8, micro=2, leaves=4)
LAYOUTS = [  # on two ranks, and on more of them with as many data-parallel ranks as that takes
    {"zero": 1}, {"zero": 2}, {"zero": 3}, {"pipeline": 2, "zero": 3},
    {"pipeline": 2, "schedule": "zero-bubble", "zero": 0}, {"tensor": 2}, {"context": 2},
]  # fmt: skip


class Run:
    """A model that a communicator's ranks train, and its samples."""

    def __init__(self, comm, kind, **layout):
        plain, self.part = small_model(kind, layers=2)
        parallel = ParallelConfig(**layout)
        self.mesh = hpcpar.Mesh(comm, **parallel.sizes(comm.size))
        self.model = parallelize(plain, self.mesh, parallel, BATCH, None, "layout")
        self.model.initialize(3)

    def step(self, number):
        """A step; its loss and norm."""
        loss = self.model.loss_and_gradients(self.part, (np.arange(BATCH.size) * 7 + number) % 64)
        norm = self.model.update.norm()
        self.model.update.step(1e-2, 1.0)
        return loss, norm

    def own(self):
        """Of every kind the elements that this rank updates."""
        kinds = ("weights", *self.model.update.optimizer.kinds)
        return {
            kind: [(p, to_host(a).copy()) for p, a in owned(self.model, kind)] for kind in kinds
        }


@contextmanager
def running(comm, kind, **layout):
    run = Run(comm, kind, **layout)
    yield run
    run.mesh.close()


def agrees(own, place):
    """Whether what a rank has is, bit for bit, what a checkpoint says."""
    read = checkpoint.load(place)
    kinds = {"weights": read.model, **read.optimizer}
    assert kinds.keys() == own.keys()
    for kind, parts in own.items():
        for part, values in parts:
            whole = kinds[kind][part.name]
            local = whole if part.cut is None else part.cut.take(whole)
            if not np.array_equal(local.reshape(-1)[part.run.start : part.run.stop], values):
                return False
    return True


def write(comm, run, folder, step):
    """A checkpoint of now, on disk."""
    with checkpoint.Writer(run.model, folder if comm.rank == 0 else None, keep=9) as saving:
        saving.begin(step, (0, step))


def go_back(run, folder, step):
    """Go back to a checkpoint; this rank's own part of it."""
    comm = run.model.comm
    saved = checkpoint.find_latest(comm, folder if comm.rank == 0 else None, pytest.fail)
    assert checkpoint.restore(run.model, saved) == step
    return run.own()


def test_from_any_number_of_ranks_to_any_other(comm, shared_path):
    """P to P' for all pairs up to the ranks that there are: the same state, the same next step."""
    only_on(comm.size, 8)
    groups = [comm.split(0 if comm.rank < size else None) for size in range(1, comm.size + 1)]
    mine = [group for group in groups if group is not None]
    for kind in ("mlp", "gpt") if LONG else ("mlp",):
        told, runs = [], [Run(group, kind) for group in mine]
        folders = [shared_path / kind / str(group.size) for group in mine]
        for run, folder in zip(runs, folders, strict=True):
            run.step(0)
            write(run.model.comm, run, folder, 1)
            told.append(run.step(1))
        comm.barrier()
        folders = [shared_path / kind / str(size) for size in range(1, comm.size + 1)]
        for run, folder in product(runs, folders):
            assert agrees(go_back(run, folder, 1), folders[0] / "step-00000001")
            told.append(run.step(1))
        assert len(set(told)) == 1
        comm.barrier()
        for run in runs:
            run.mesh.close()
    for group in mine:
        group.close()


def test_from_any_layout_to_any_other(comm, shared_path):
    if comm.size % 2:
        pytest.skip("layouts of an even number of ranks")
    only_on(comm.size, 4)
    told, folders = [], [shared_path / str(number) for number in range(len(LAYOUTS) + 1)]
    with running(comm, "gpt", **LAYOUTS[-1]) as run:
        run.step(0)
        write(comm, run, folders[0], 1)
        told.append(run.step(1))
    for layout, theirs, ours in zip(LAYOUTS, folders, folders[1:], strict=False):
        comm.barrier()
        with running(comm, "gpt", **layout) as run:
            assert agrees(go_back(run, theirs, 1), folders[0] / "step-00000001")
            write(comm, run, ours, 1)
            told.append(run.step(1))
    assert len(set(told)) == 1


def test_writing_changes_no_bit_and_later_steps_are_not_in_it(comm, shared_path, monkeypatch):
    only_on(comm.size, 1, 2)
    with running(comm, "gpt", zero=1) as run:
        undisturbed = [run.step(number) for number in range(4)]
    gate, real = threading.Event(), part_file.write_part

    def late(*arguments):
        assert gate.wait(30)
        return real(*arguments)

    monkeypatch.setattr(writer, "write_part", late)
    told, states = [], {}
    with (
        running(comm, "gpt", zero=1) as run,
        checkpoint.Writer(run.model, shared_path if comm.rank == 0 else None, 9) as saving,
    ):
        for number in range(4):
            told.append(run.step(number))
            gate.set()  # only now, a step later, the one before is written
            saving.finish()
            gate.clear()
            states[number + 1] = run.own()
            saving.begin(number + 1, (0, number + 1))
            saving.advance()
            assert not (shared_path / f"step-{number + 1:08d}").exists()
        gate.set()
    assert told == undisturbed
    places = checkpoint.list_checkpoints(shared_path)
    assert len(places) == 4
    for step, place in enumerate(places, 1):
        assert agrees(states[step], place)


def test_advance_finishes_it(comm, shared_path):
    """Without anybody waiting for it; one that is begun before is finished first."""
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

    monkeypatch.setattr(RESTORE, "load_latest", slow)
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
    with running(comm, "mlp") as run:
        write(comm, run, shared_path, 1)
        with together(comm):
            saved = checkpoint.load_latest(shared_path, pytest.fail) if comm.rank == 0 else None
            for path in shared_path.rglob("part-*") if comm.rank == 0 else ():
                path.write_bytes(b"")
        with pytest.raises(UserError, match="has become shorter"):
            checkpoint.restore(run.model, saved)
