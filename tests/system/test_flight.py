"""Hangs of whole jobs: they end with status 3, one table and one sentence, and leave nothing."""

import os
import signal
import time
from pathlib import Path

import pytest

from hpcpar.comm.flight import read_flight, table, verdict

RANKS = 3
PROGRAM = """
import ctypes, os, signal, sys, time
import numpy as np
from mpi4py import MPI
from hpcpar.comm.flight import open_flight
from hpcpar.comm.flight.opening import _PROCESS

{first}
world = MPI.COMM_WORLD
rank, last, pid = world.rank, world.size - 1, os.getpid()
flight = open_flight(world, 0.3, node=min(rank, {nodes} - 1))
recorder = flight.recorder
x, y = np.ones(4), np.empty(4)

def begin(slot, name, number, peer=-1):
    site = recorder.site(sys._getframe(1))
    return recorder.begin(slot, recorder.operation(name), number, x.nbytes, peer, site)

def allreduce(number):
    entry = begin(flight.collective, "allreduce", number)  # allreduce
    world.Allreduce(x, y)
    recorder.end(entry)

allreduce(1)
{body}
"""
HANGS = {
    # The rank holds the GIL: no Python code of its process runs any more.
    "gil": (
        "ctypes.PyDLL(None).sleep(1000) if rank == last else allreduce(2)  # here",
        r"it is outside of hpcpar at program.py:{here} for ",
    ),
    "gil in a call": (
        "entry = begin(flight.collective, 'allreduce', 2)  # here\nctypes.PyDLL(None).sleep(1000)",
        "all 3 ranks entered allreduce #2 (program.py:{here}), none came out of it",
    ),
    "receives": (
        "if rank < last: allreduce(2)\n"
        "begin(flight.message, 'recv', 1, peer=1)  # here\nworld.Recv(y, 1)",
        "it is in recv from 1 (program.py:{here})",
    ),
    "stopped": (
        "if rank == last: os.kill(pid, signal.SIGSTOP)\nallreduce(2)  # here",
        "it is stopped by a signal, outside of hpcpar for ",
    ),
}


@pytest.fixture
def run(mpirun, tmp_path):
    """run(body, nodes=1): a launch whose files are in tmp_path/tmp, and the folder of its run."""
    place = tmp_path / "tmp"
    place.mkdir()

    def start(body: str, nodes: int = 1, first: str = "", **environment: str):
        program = tmp_path / "program.py"
        program.write_text(PROGRAM.format(nodes=nodes, body=body, first=first))
        environment = {"TMPDIR": str(place), **environment}
        done = mpirun(RANKS, program, limit=50, env=environment)
        wait_for_watchers(place)
        folders = list(place.glob("hpcpar-*/*"))
        assert len(folders) <= 1
        return done, folders[0] if folders else None

    return start


def wait_for_watchers(place: Path) -> None:
    """Until none is left that was started with this TMPDIR; AssertionError after a limit."""
    deadline = time.monotonic() + 15
    while found := [pid for pid in os.listdir("/proc") if is_watcher(pid, place)]:
        assert time.monotonic() < deadline, f"watchers {found} are still there"
        time.sleep(0.05)


def is_watcher(pid: str, place: Path) -> bool:
    try:
        command = Path("/proc", pid, "cmdline").read_bytes()
        environment = Path("/proc", pid, "environ").read_bytes()
    except OSError:
        return False
    return b"flight watcher" in command and f"TMPDIR={place}\0".encode() in environment


def line_of(program: Path, word: str) -> int:
    lines = program.read_text().splitlines()
    return next(n for n, text in enumerate(lines, 1) if text.endswith(f"# {word}"))


@pytest.mark.parametrize(
    ("hang", "nodes"),
    [("gil", 1), ("gil", 2), ("gil in a call", 1), ("receives", 3), ("stopped", 1)],
)
def test_a_hang_ends_the_job(run, tmp_path, hang, nodes):
    body, words = HANGS[hang]
    done, folder = run(body, nodes)
    assert done.returncode == 3, done.stderr
    program = tmp_path / "program.py"
    words = words.format(here=line_of(program, "here"))
    if hang != "gil in a call":
        what = f"allreduce #2 (program.py:{line_of(program, 'allreduce')})"
        words = f"rank 2 never entered {what}; {words}"
    sentence = f"hpcpar: {words}"
    assert sentence in done.stderr, done.stderr
    assert done.stderr.count("hpcpar: ") == 1
    assert done.stderr.count("rank  host") == 1
    assert all(f"\n{rank}  " in done.stderr for rank in range(RANKS))
    # The recorders tell the same when all is over.
    rows = read_flight(folder)
    assert [row.rank for row in rows] == [0, 1, 2]
    assert verdict(rows).split(";")[0] in done.stderr.replace("hpcpar: ", "")
    assert (folder / "hang.txt").read_text() in done.stderr


def test_what_sigkill_leaves_can_be_read(run):
    """All ranks at once; nothing but their recorders stays, and no process."""
    body = "begin(flight.collective, 'bcast', 2, peer=0)\nos.kill(pid, signal.SIGKILL)"
    done, folder = run(body, nodes=2)
    assert done.returncode not in (0, 3)
    rows = read_flight(folder)
    assert rows[0].call.operation == "bcast" and rows[0].call.number == 2
    assert rows[0].last.operation == "allreduce" and rows[0].state == "running"
    assert len(table(rows).splitlines()) == RANKS + 1
    assert {path.suffix for path in folder.iterdir()} <= {".flight", ".stack"}


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_normal_end_leaves_nothing(run, nodes):
    done, folder = run("allreduce(2)\nflight.close()", nodes)
    assert (done.returncode, done.stderr, folder) == (0, "", None)


def test_an_error_leaves_the_recorders(run):
    done, folder = run("1 / 0")
    assert done.returncode == 1
    assert [row.state for row in read_flight(folder)].count("ended") >= 1


def test_a_rank_that_has_lost_its_watcher_reads_the_files(run):
    body = """
for watcher in _PROCESS.watchers: os.kill(watcher.pid, signal.SIGKILL); os.waitpid(watcher.pid, 0)
world.Barrier()
if rank == 0:
    entry = begin(flight.collective, "allreduce", 2)
    print(flight.verdict("collective", 2).sentence)
    recorder.give_up(entry)
world.Barrier()
"""
    done, _ = run(body)
    assert done.returncode == 0, done.stderr
    assert "ranks 1-2 never entered allreduce #2" in done.stdout


def test_a_forked_child_does_not_keep_it_from_ending(run, tmp_path):
    """It inherits the line to the watcher, and outlives its rank."""
    body = f"""
if rank == last:
    if os.fork() == 0:
        os.closerange(0, 3)
        open({str(tmp_path / "child")!r}, "w").write(str(os.getpid()))
        time.sleep(60)
        os._exit(0)
"""
    done, _ = run(body)
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)
    assert done.returncode == 0, done.stderr


def test_in_the_background_of_a_shell(run):
    """Which has its programs ignore the signal that ends a rank with status 3."""
    ignore = "import signal; signal.signal(signal.SIGQUIT, signal.SIG_IGN)"
    done, _ = run(HANGS["gil"][0], first=ignore)
    assert done.returncode == 3, done.stderr


def test_without_a_folder_there_is_one_note_and_a_watch(run, tmp_path):
    (tmp_path / "file").touch()
    done, folder = run(HANGS["gil"][0], first=f"os.environ['TMPDIR'] = {str(tmp_path / 'file')!r}")
    assert done.returncode == 3 and folder is None
    assert done.stderr.count("hpcpar: note: flight recorders will be lost") == 1
    assert "Not a directory" in done.stderr
    assert "rank 2 never entered allreduce #2" in done.stderr


def test_off(run):
    done, folder = run("allreduce(2)\ntime.sleep(0.2)", HPCPAR_FLIGHT="off")
    assert (done.returncode, done.stderr, folder) == (0, "", None)


@pytest.mark.parametrize("end", ["pass", "raise KeyError"])
def test_a_rank_whose_program_ends_without_the_call(mpirun, tmp_path, end):
    """The commonest hang: it waits in MPI_Finalize meanwhile, where a signal must not end it."""
    program = tmp_path / "program.py"
    program.write_text(
        "import numpy as np, hpcpar\n"
        "comm = hpcpar.Communicator(device='cpu', timeout=2)\n"
        "comm.barrier()\n"
        "if comm.rank == 0: comm.allreduce(np.ones(4))\n"
        f"else: {end}\n"
    )
    done = mpirun(2, program, limit=40)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "rank 1 never entered allreduce #2 (program.py:4)" in done.stderr
    assert "its program came to its end" in done.stderr and done.stderr.count("rank  host") == 1
