"""A process that dies anywhere while it writes leaves the old checkpoint or the new one, whole."""

import json
import os
import shutil
import sys
import threading
import traceback
from pathlib import Path

import pytest
from checkpoints import same, save

from hpcpar.checkpoint import load_latest
from hpcpar.checkpoint.places import part_name, remove_leftovers

OPERATIONS = ("write", "fsync", "rename", "mkdir", "unlink", "rmdir", "open", "truncate")
DIED = 9


class Mortal:
    """Counts what a process changes on disk, tells it, and dies in the midst of the n-th change.

    Flushing is told only: it takes time, and what a dead process has written is there without it.
    """

    def __init__(self, last: int, told: int) -> None:
        self._left, self._told, self._lock = last, told, threading.Lock()
        self._real = {name: getattr(os, name) for name in OPERATIONS}
        for name in OPERATIONS:
            setattr(os, name, lambda *a, _name=name, **k: self._do(_name, *a, **k))

    def _do(self, name, first, *more, **named):
        real = self._real[name]
        if name == "open" and not (more and more[0] & os.O_CREAT):
            return real(first, *more, **named)
        with self._lock:
            self._left -= 1
            if self._left == 0:
                if name == "write":
                    real(first, bytes(more[0])[: len(more[0]) // 2])
                    self._tell("write", os.fstat(first).st_ino)
                os._exit(DIED)
            result = None if name == "fsync" else real(first, *more, **named)
            if name in ("write", "fsync"):
                self._tell(name, os.fstat(first).st_ino)
            elif name == "rename":
                self._tell(name, str(first), str(more[0]))
        return result

    def _tell(self, *event):
        self._real["write"](self._told, (json.dumps(event) + "\n").encode())


def die_at(last, work):
    """Do `work` in a child that dies at its `last` change; whether it did, and what it told."""
    mine, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            Mortal(last, told)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(1)
    os.close(told)
    with os.fdopen(mine) as pipe:
        events = [json.loads(line) for line in pipe]
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, DIED)
    return status == DIED, events


def lose_what_was_not_flushed(folder: Path, events) -> None:
    """What a power cut may do: unflushed files are empty, unflushed renames have not happened."""
    unflushed, renames = set(), []
    for name, *what in events:
        if name == "write":
            unflushed.add(what[0])
        elif name == "fsync":
            unflushed.discard(what[0])
            if what[0] == folder.stat().st_ino:
                renames = []
        else:
            renames.append(what)
    for old, new in reversed(renames):
        if Path(new).exists():  # else it was removed since
            os.rename(new, old)
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_ino in unflushed:
            path.write_bytes(b"")


@pytest.mark.parametrize("again", [False, True], ids=["a new step", "a damaged one again"])
def test_dying_at_every_change(tmp_path, monkeypatch, again):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    folder = tmp_path / "run"
    for step in (1, 2, 3) if again else (1, 2):
        place = save(folder, step, keep=3)
    if again:
        (place / part_name(1)).write_bytes(b"damaged")
    before = tmp_path / "before"
    shutil.copytree(folder, before)
    died, found, last, keep = True, [], 0, 2 if again else 1
    while died:
        last += 1
        shutil.rmtree(folder)
        shutil.copytree(before, folder)
        died, events = die_at(last, lambda: save(folder, 3, keep))
        found.append(examine(folder, quiet=not again))
        lose_what_was_not_flushed(folder, events)
        assert examine(folder, quiet=not again) <= found[-1]
        remove_leftovers(folder)  # the run starts again
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]
        assert same(save(folder, 3, keep), 3)
    assert found == sorted(found) and {2, 3} == set(found), "first the old one, then the new one"
    assert last > 20, "two parts, a manifest, and what is removed"


def examine(folder: Path, quiet: bool) -> int:
    """The step of the newest checkpoint, which is whole."""
    said = []
    read = load_latest(folder, said.append)
    assert read is not None and same(read.place, read.facts.step)
    assert not (quiet and said), said
    return read.facts.step
