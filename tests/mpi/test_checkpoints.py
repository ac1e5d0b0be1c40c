"""Checkpoints of many ranks: written beside the training, read by any other layout."""

import threading
from itertools import product

import numpy as np
import pytest
from checkpoint_runs import Run, running
from long import LONG, only_on

from hpcpar import checkpoint
from hpcpar.checkpoint import part_file, writer

pytestmark = pytest.mark.mpi

LAYOUTS = [  # on two ranks, and on more of them with as many data-parallel ranks as that takes
    {"zero": 1}, {"zero": 2}, {"zero": 3}, {"pipeline": 2, "zero": 3},
    {"pipeline": 2, "schedule": "zero-bubble", "zero": 0}, {"tensor": 2}, {"context": 2},
]  # fmt: skip


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


def test_from_any_number_of_ranks_to_any_other(unchecked, shared_path):
    """P to P' for all pairs up to the ranks that there are: the same state, the same next step."""
    comm = unchecked  # many small calls, and ranks that wait for others
    only_on(comm.size, 8)
    groups = [comm.split(0 if comm.rank < size else None) for size in range(1, comm.size + 1)]
    mine = [group for group in groups if group is not None]
    for kind in ("mlp", "gpt") if LONG else ("linear",):
        runs = {group.size: Run(group, kind) for group in mine}
        sizes = range(1, comm.size + 1)
        told, folders = [], [shared_path / kind / str(size) for size in sizes]
        for size, folder in zip(sizes, folders, strict=True):
            comm.barrier()  # nobody waits for more than one group at a time
            if run := runs.get(size):
                run.step(0)
                write(run.model.comm, run, folder, 1)
                told.append(run.step(1))
        for size, folder in product(sizes, folders):
            comm.barrier()
            if run := runs.get(size):
                assert agrees(go_back(run, folder, 1), folders[0] / "step-00000001")
                told.append(run.step(1))
        assert len(set(told)) == 1
        comm.barrier()
        for run in runs.values():
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
