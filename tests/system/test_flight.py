"""Hangs of whole jobs: they end with status 3, one table and one sentence, and leave nothing."""

import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from launch import side_by_side, start_mpirun

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
        r"it is outside of hpcpar at {program}:{here} for ",
    ),
    "gil in a call": (
        "entry = begin(flight.collective, 'allreduce', 2)  # here\nctypes.PyDLL(None).sleep(1000)",
        "all 3 ranks entered allreduce #2 ({program}:{here}), none came out of it",
    ),
    "receives": (
        "if rank < last: allreduce(2)\n"
        "begin(flight.message, 'recv', 1, peer=1)  # here\nworld.Recv(y, 1)",
        "it is in recv from 1 ({program}:{here})",
    ),
    "stopped": (
        "if rank == last: os.kill(pid, signal.SIGSTOP)\nallreduce(2)  # here",
        "it is stopped by a signal, outside of hpcpar for ",
    ),
}


HUNG = [("gil", 1), ("gil", 2), ("gil in a call", 1), ("receives", 3), ("stopped", 1)]
IGNORES = "import signal; signal.signal(signal.SIGQUIT, signal.SIG_IGN)"
LOSES_WATCHER = """
for watcher in _PROCESS.watchers: os.kill(watcher.pid, signal.SIGKILL); os.waitpid(watcher.pid, 0)
world.Barrier()
if rank == 0:
    entry = begin(flight.collective, "allreduce", 2)
    print(flight.verdict("collective", 2).sentence)
    recorder.give_up(entry)
world.Barrier()
"""
FORKS = """
if rank == last:
    if os.fork() == 0:
        os.closerange(0, 3)
        open(os.path.join(os.environ["TMPDIR"], "child"), "w").close()
        time.sleep(60)
        os._exit(0)
"""
KILLED = "begin(flight.collective, 'bcast', 2, peer=0)\nos.kill(pid, signal.SIGKILL)"
IN_A_FILE = """open(os.path.join(os.environ["TMPDIR"], "file"), "w").close()
os.environ["TMPDIR"] = os.path.join(os.environ["TMPDIR"], "file")"""
# What is launched: body of the program, nodes, first lines, environment.
LAUNCHES: dict[str, tuple[str, int, str, dict[str, str]]] = {
    **{f"{hang} {nodes}": (HANGS[hang][0], nodes, "", {}) for hang, nodes in HUNG},
    "killed": (KILLED, 2, "", {}),
    "ends 1": ("allreduce(2)\nflight.close()", 1, "", {}),
    "ends 2": ("allreduce(2)\nflight.close()", 2, "", {}),
    "error": ("1 / 0", 1, "", {}),
    "no watcher": (LOSES_WATCHER, 1, "", {}),
    "forks": (FORKS, 1, "", {}),
    "ignores": (HANGS["gil"][0], 1, IGNORES, {}),
    "no folder": (HANGS["gil"][0], 1, IN_A_FILE, {}),
    "off": ("allreduce(2)\ntime.sleep(0.2)", 1, "", {"HPCPAR_FLIGHT": "off"}),
}


@dataclass(frozen=True)
class Launched:
    """A launch that is over: its program, the folder of its temporary files, that of its run."""

    done: CompletedProcess[str]
    program: Path
    place: Path
    folder: Path | None


def launch(place: Path, body: str, nodes: int, first: str, environment: dict) -> Launched:
    """Launch a program, and wait for its watchers too."""
    place.mkdir()
    program = place.with_suffix(".py")
    program.write_text(PROGRAM.format(nodes=nodes, body=body, first=first))
    environment = {"TMPDIR": str(place), **environment}
    done = start_mpirun(RANKS, str(program), limit=50, env=environment)
    wait_for_watchers(place)
    folders = list(place.glob("hpcpar-*/*"))
    assert len(folders) <= 1
    return Launched(done, program, place, folders[0] if folders else None)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """run(NAME): what came of a launch; all were there side by side, for they mostly wait."""
    folder = tmp_path_factory.mktemp("launches")
    results = side_by_side(
        {
            name: partial(launch, folder / name.replace(" ", "_"), *how)
            for name, how in LAUNCHES.items()
        }
    )
    return lambda name: results[name].result()


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


@pytest.mark.parametrize(("hang", "nodes"), HUNG)
def test_a_hang_ends_the_job(run, hang, nodes):
    launched = run(f"{hang} {nodes}")
    done, program, words = launched.done, launched.program, HANGS[hang][1]
    assert done.returncode == 3, done.stderr
    words = words.format(program=program.name, here=line_of(program, "here"))
    if hang != "gil in a call":
        what = f"allreduce #2 ({program.name}:{line_of(program, 'allreduce')})"
        words = f"rank 2 never entered {what}; {words}"
    sentence = f"hpcpar: {words}"
    assert sentence in done.stderr, done.stderr
    assert done.stderr.count("hpcpar: ") == 1
    assert done.stderr.count("rank  host") == 1
    assert all(f"\n{rank}  " in done.stderr for rank in range(RANKS))
    # The recorders tell the same when all is over.
    rows = read_flight(launched.folder)
    assert [row.rank for row in rows] == [0, 1, 2]
    assert verdict(rows).split(";")[0] in done.stderr.replace("hpcpar: ", "")
    assert (launched.folder / "hang.txt").read_text() in done.stderr


def test_what_sigkill_leaves_can_be_read(run):
    """All ranks at once; nothing but their recorders stays, and no process."""
    launched = run("killed")
    assert launched.done.returncode not in (0, 3)
    rows = read_flight(launched.folder)
    assert rows[0].call.operation == "bcast" and rows[0].call.number == 2
    assert rows[0].last.operation == "allreduce" and rows[0].state == "running"
    assert len(table(rows).splitlines()) == RANKS + 1
    assert {path.suffix for path in launched.folder.iterdir()} <= {".flight", ".stack"}


@pytest.mark.parametrize("name", ["ends 1", "ends 2", "off"])
def test_a_normal_end_leaves_nothing(run, name):
    """On one node, on two, and without a watch."""
    launched = run(name)
    done = launched.done
    assert (done.returncode, done.stderr, launched.folder) == (0, "", None)


def test_an_error_leaves_the_recorders(run):
    launched = run("error")
    assert launched.done.returncode == 1
    assert [row.state for row in read_flight(launched.folder)].count("ended") >= 1


def test_a_rank_that_has_lost_its_watcher_reads_the_files(run):
    done = run("no watcher").done
    assert done.returncode == 0, done.stderr
    assert "ranks 1-2 never entered allreduce #2" in done.stdout


def test_a_forked_child_does_not_keep_it_from_ending(run):
    """It inherits the line to the watcher, and outlives its rank, until `run` ends it."""
    launched = run("forks")
    assert launched.done.returncode == 0, launched.done.stderr
    assert (launched.place / "child").exists()


def test_in_the_background_of_a_shell(run):
    """Which has its programs ignore the signal that ends a rank with status 3."""
    done = run("ignores").done
    assert done.returncode == 3, f"{done.returncode}: {done.stderr}"


def test_without_a_folder_there_is_one_note_and_a_watch(run):
    launched = run("no folder")
    done = launched.done
    assert done.returncode == 3 and launched.folder is None
    assert done.stderr.count("hpcpar: note: flight recorders will be lost") == 1
    assert "Not a directory" in done.stderr
    assert "rank 2 never entered allreduce #2" in done.stderr


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
