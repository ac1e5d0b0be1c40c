"""Where recorders lie, what is swept away, and how a dead run is read."""

import errno
import os
import time
from pathlib import Path

import pytest

from hpcpar.comm.flight import read_flight, table, verdict
from hpcpar.comm.flight.folder import (
    KEPT,
    base_folder,
    in_use,
    make_folder,
    open_file,
    recorder_name,
    remove,
    sweep,
)
from hpcpar.comm.flight.layout import COLLECTIVE, FILE_BYTES
from hpcpar.comm.flight.recorder import Recorder
from hpcpar.errors import UserError


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def age(folder: Path, seconds: float) -> None:
    os.utime(folder, (time.time() - seconds,) * 2)


def test_a_folder_of_this_user_alone(temporary):
    folder = make_folder("run")
    assert make_folder("run") == folder  # every rank makes it
    assert folder.parent == base_folder() == temporary / f"hpcpar-{os.getuid()}"
    assert [path.stat().st_mode & 0o777 for path in (folder, folder.parent)] == [0o700] * 2


def test_a_folder_that_others_can_write_to_is_refused():
    base_folder().mkdir()
    base_folder().chmod(0o777)
    with pytest.raises(OSError, match="not a folder of this user alone"):
        make_folder("run")


def test_a_link_in_its_place_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    base_folder().symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="not a folder of this user alone"):
        make_folder("run")


def test_a_full_disk_is_found_at_once(monkeypatch):
    """Found at the first store into the map, it would be a SIGBUS."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = make_folder("run")
    monkeypatch.setattr(os, "posix_fallocate", full)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="No space left"):
        open_file(folder, "rank0000.flight")
    assert not any(folder.iterdir())
    assert len(os.listdir("/proc/self/fd")) == before


def test_sweeping_keeps_the_newest_the_young_and_the_living():
    folders = [make_folder(f"run{number:02d}") for number in range(KEPT + 5)]
    for number, folder in enumerate(folders):
        os.close(open_file(folder, "rank0000.flight"))
        age(folder, 10_000 - number)
    living = open_file(folders[0], "rank0001.flight")
    age(folders[0], 10_000)
    assert in_use(folders[0]) and not in_use(folders[1])
    sweep(base_folder())
    assert sorted(base_folder().iterdir()) == [folders[0], *folders[5:]]
    os.close(living)
    sweep(base_folder())
    assert sorted(base_folder().iterdir()) == folders[5:]
    for folder in folders[5:]:
        age(folder, 1)
    sweep(base_folder())
    assert sorted(base_folder().iterdir()) == folders[5:]


def test_files_are_removed_and_the_folder_with_the_last():
    folder = make_folder("run")
    (folder / "a").touch()
    (folder / "b").touch()
    remove(folder, ["a", "c"])
    assert [path.name for path in folder.iterdir()] == ["b"]
    remove(folder, ["b"])
    assert not folder.exists()
    remove(folder, ["b"])


def test_a_dead_run_is_read():
    folder = make_folder("run")
    for rank in (0, 2):  # the recorder of 1 is on another node
        descriptor = open_file(folder, recorder_name(rank))
        recorder = Recorder(descriptor, rank, 3, {"host": "here"})
        slot = recorder.open_group(5, [0, 1, 2], rank, 60, 1) + COLLECTIVE
        recorder.end(recorder.begin(slot, recorder.operation("bcast"), 1, 8, 0, 0))
        if rank == 0:
            recorder.begin(slot, recorder.operation("allreduce"), 2, 8, -1, 0)
        os.close(descriptor)
        del recorder
    (folder / "rank0007.flight").write_bytes(b"no recorder")
    rows = read_flight(folder)
    assert [row.state for row in rows] == ["running", "missing", "running"]
    told = verdict(rows)
    assert told.startswith("rank 2 never entered allreduce #2 (?); it is outside of hpcpar")
    assert told.endswith("after bcast #1; nothing is known of rank 1, and allreduce #2 (?) waits")
    assert len(table(rows).splitlines()) == 4


def test_no_recorders_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match="holds no flight recorders"):
        read_flight(tmp_path)


def test_a_file_has_room_for_everything():
    descriptor = open_file(None, "test")
    assert os.fstat(descriptor).st_size == FILE_BYTES < 200_000
    assert os.fstat(descriptor).st_blocks * 512 >= FILE_BYTES  # taken, not promised
    os.close(descriptor)
