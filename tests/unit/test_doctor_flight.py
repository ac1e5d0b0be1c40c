"""doctor --flight: folders with recorders, with none, and with some that were cut short."""

import os
import sys

import pytest

from hpcpar.comm.flight.folder import open_file, recorder_name
from hpcpar.comm.flight.layout import COLLECTIVE
from hpcpar.comm.flight.recorder import Recorder
from hpcpar.errors import UserError
from hpcpar.tools.doctor.flight import read_run


def leave(folder, size, entered):
    """The recorders of a run of `size` ranks; those in `entered` wait in an allreduce."""
    for rank in range(size):
        descriptor = open_file(folder, recorder_name(rank))
        recorder = Recorder(descriptor, rank, size, {"host": f"node{rank}"})
        slot = recorder.open_group(7, list(range(size)), rank, 60.0, 0) + COLLECTIVE
        site, name = recorder.site(sys._getframe()), recorder.operation("allreduce")
        recorder.end(recorder.begin(slot, name, 1, 8, -1, site))
        if rank in entered:
            recorder.begin(slot, name, 2, 8, -1, site)
        os.close(descriptor)


def test_the_rank_that_is_missing(tmp_path):
    leave(tmp_path, 3, entered=[0, 2])
    text, told = read_run(str(tmp_path))
    assert "rank 1" in told["verdict"] and "allreduce #2" in told["verdict"]
    assert told["verdict"] in text and "node2" in text
    assert [row["rank"] for row in told["rows"]] == [0, 1, 2]
    assert told["said"] == "" and "watchdog" not in text


def test_last_words(tmp_path):
    leave(tmp_path, 2, entered=[0])
    (tmp_path / "hang.txt").write_text("rank 1 stood at step.py:7\n")
    text, told = read_run(str(tmp_path))
    assert told["said"] == "rank 1 stood at step.py:7" and text.endswith(told["said"])


def test_one_file_is_cut_short(tmp_path):
    leave(tmp_path, 3, entered=[0, 2])
    os.truncate(tmp_path / recorder_name(1), 1000)
    text, told = read_run(str(tmp_path))
    assert text.splitlines()[0] == told["unreadable"][0]
    assert recorder_name(1) in told["unreadable"][0] and "cut short" in told["unreadable"][0]
    assert [row["state"] for row in told["rows"]] == ["running", "missing", "running"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("absent", "absent does not exist"),
        ("file", "file is no folder"),
        ("empty", "empty holds no flight recorders"),
        ("cut", "rank0000.flight was cut short"),
    ],
)
def test_mistakes(tmp_path, path, words):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / recorder_name(0)).write_bytes(b"\0" * 99)
    with pytest.raises(UserError, match=words) as raised:
        read_run(str(tmp_path / path))
    assert "\n" not in str(raised.value)
