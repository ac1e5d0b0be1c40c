"""`open_flight`: from a communicator's ranks to recorders that are watched."""

import atexit
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
from mpi4py import MPI

from hpcpar.apart.links import addresses, listen
from hpcpar.apart.start import start_apart
from hpcpar.comm.flight import signals
from hpcpar.comm.flight.flight import Flight, GroupInfo
from hpcpar.comm.flight.folder import (
    base_folder,
    make_folder,
    open_file,
    recorder_name,
    remove,
    stack_name,
    sweep,
)
from hpcpar.comm.flight.layout import ranges_text
from hpcpar.comm.flight.recorder import Recorder
from hpcpar.comm.flight.watch import Watch

__all__ = ["end_all", "leave", "open_flight"]

PLAN_BYTES = 2048  # of what rank 0 tells all


class Process:
    """What there is once a process, whatever its communicators: one recorder, and watches."""

    def __init__(self) -> None:
        self.recorder: Recorder | None = None
        self.nobody: Recorder | None = None  # what takes its place where it is off
        self.folder: Path | None = None
        self.stacks = -1
        self.signals: list[str] = []
        self.watches: dict[int, Watch | None] = {}
        self.current = 0  # the watch that new communicators join
        self.watchers: list[subprocess.Popen[bytes]] = []  # that this rank has started
        self.pid = os.getpid()

    def record(self, run: str, rank: int, size: int) -> str:
        """Open the recorder; why it is not in its folder, or nothing."""
        problem = ""
        names = recorder_name(rank), stack_name(rank)
        try:
            self.folder = make_folder(run)
            descriptor = open_file(self.folder, names[0])
            self.stacks = open_file(self.folder, names[1], size=0)
        except OSError as error:
            problem = f"{error.strerror or error} ({base_folder()})"
            self.folder = None
            descriptor, self.stacks = open_file(None, names[0]), open_file(None, names[1], size=0)
        about = {
            "host": socket.gethostname(),
            "command": " ".join(sys.orig_argv),
            "started": time.strftime("%Y-%m-%d %H:%M:%S"),
            "stack": stack_name(rank),
        }
        self.recorder = Recorder(descriptor, rank, size, about)
        self.signals = signals.take(self.stacks)
        atexit.register(self.leave)
        return problem

    def silent(self) -> Recorder:
        """A recorder that nobody reads."""
        if self.nobody is None:
            self.nobody = Recorder(None)
        return self.nobody

    def join(self, name: str) -> Watch:
        """A line to the watcher of this name. Raises OSError where there is none."""
        assert self.recorder is not None and self.recorder.descriptor is not None
        folder = str(self.folder or "")
        hello = {"rank": self.recorder.rank, "signals": self.signals, "folder": folder}
        return Watch(name, hello, [self.recorder.descriptor, self.stacks])

    def leave(self) -> None:
        """The orderly end of the process."""
        if os.getpid() != self.pid or self.recorder is None:  # a child made by fork
            return
        failed = hasattr(sys, "last_value")  # Python has printed a traceback
        self.recorder.close()
        for watch in self.watches.values():
            if watch is not None:
                watch.leave(failed)
        for watcher in self.watchers:
            watcher.returncode = 0  # it ends after us: nobody can wait for it
        if not self.watches and self.folder is not None and not failed:
            names = [recorder_name(self.recorder.rank), stack_name(self.recorder.rank)]
            remove(self.folder, names)


_PROCESS = Process()


def end_all() -> None:
    """Have all ranks of the job ended, soon, by the watchers."""
    watch = _PROCESS.watches.get(_PROCESS.current)
    if watch is not None:
        watch.end()


def leave() -> None:
    """The orderly end of a process that ends without the interpreter's."""
    _PROCESS.leave()


def open_flight(mpi_comm: MPI.Intracomm, timeout: float, node: int | None = None) -> Flight:
    """Record what the ranks of a communicator do, and watch them. Collective.

    A process has one recorder for its life. Its first communicator also starts a watcher a node;
    later ones share it if all their ranks do, and start another otherwise. HPCPAR_FLIGHT=off, on
    any rank, leaves both out. Nothing here fails a job: what cannot be had is said in one note.

    Args:
        mpi_comm: its calls will be recorded.
        timeout: seconds that a call of it may take.
        node: the number of this rank's node, the same on all ranks there; by the host's name if
            None.
    """
    off = os.environ.get("HPCPAR_FLIGHT", "") == "off"
    rank, watch = mpi_comm.Get_rank(), _PROCESS.current
    identity = secrets.randbits(62) | 1 if rank == 0 else 0
    facts = np.array([off, watch, -watch, identity], np.int64)
    mpi_comm.Allreduce(MPI.IN_PLACE, facts, MPI.MAX)
    identity, members = int(facts[3]), _members(mpi_comm)
    if facts[0]:
        group = GroupInfo(identity, members, rank, timeout, 0)
        return Flight(_PROCESS.silent(), group, None, None)
    in_common = facts[1] == -facts[2]  # the largest and the smallest of their watches
    if not (in_common and watch):
        _open_watch(mpi_comm, node)
    watch, recorder = _PROCESS.current, _PROCESS.recorder
    assert recorder is not None
    group = GroupInfo(identity, members, rank, timeout, watch)
    return Flight(recorder, group, _PROCESS.watches.get(watch), _PROCESS.folder)


def _open_watch(mpi_comm: MPI.Intracomm, node: int | None) -> None:
    """A recorder where there is none yet, and a watch over these ranks. Collective."""
    rank, world = mpi_comm.Get_rank(), MPI.COMM_WORLD.Get_rank()
    where = zlib.crc32(socket.gethostname().encode()) if node is None else node
    table = np.empty((mpi_comm.Get_size(), 3), np.int64)
    mpi_comm.Allgather(np.array([where, world, os.getpid()], np.int64), table)
    nodes, leaders = np.unique(table[:, 0], return_index=True)
    number = int(np.searchsorted(nodes, where))
    door = socket.create_server(("", 0), backlog=4096) if rank == 0 and len(nodes) > 1 else None
    plan = _share_plan(mpi_comm, door)

    problem = ""
    if _PROCESS.recorder is None:
        problem = _PROCESS.record(plan["run"], world, MPI.COMM_WORLD.Get_size())
        if problem:
            problem = f"flight recorders will be lost with their processes: {problem}"
    name = f"{plan['run']}-{plan['watch']:x}-{number}"
    if rank == leaders[number] and mpi_comm.Get_size() > 1:
        config = {
            "watch": plan["watch"],
            "token": plan["token"],
            "folder": str(_PROCESS.folder or ""),
            "everybody": ranges_text(sorted(table[:, 1].tolist())),
            "ranks": table[table[:, 0] == where, 1:].tolist(),
            "node": number,
            "others": len(nodes) - 1 if rank == 0 else 0,
            "head": plan["head"],
        }
        problem = _start(config, name, door) or problem
    elif mpi_comm.Get_size() == 1:
        sweep(base_folder())
    _note(mpi_comm, problem)  # which also waits for the leaders' sockets

    _PROCESS.current = plan["watch"]
    if mpi_comm.Get_size() == 1:
        return
    try:
        _PROCESS.watches[plan["watch"]] = _PROCESS.join(name)
    except OSError:  # its leader has said why
        _PROCESS.watches[plan["watch"]] = None


def _share_plan(mpi_comm: MPI.Intracomm, door: socket.socket | None) -> dict:
    """What rank 0 decides for all: the run's name, the watch's id, a secret, where the head is."""
    text = np.zeros(PLAN_BYTES, np.uint8)
    if mpi_comm.Get_rank() == 0:
        plan = {
            "run": f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}",
            "watch": secrets.randbits(62) | 1,
            "token": secrets.token_hex(16),
            "head": [addresses(), door.getsockname()[1]] if door is not None else None,
        }
        data = json.dumps(plan).encode()
        text[: len(data)] = np.frombuffer(data, np.uint8)
    mpi_comm.Bcast(text)
    return json.loads(text.tobytes().rstrip(b"\0"))


def _start(config: dict, name: str, door: socket.socket | None) -> str:
    """Start this node's watcher; why that failed, or nothing."""
    try:
        with listen(f"flight-{name}") as listener:
            listeners = [listener] if door is None else [listener, door]
            config["rank_socket"] = listener.fileno()
            config["head_socket"] = None if door is None else door.fileno()
            process = start_apart("hpcpar.comm.flight.watcher", config, listeners)
            _PROCESS.watchers.append(process)
    except (OSError, ValueError) as error:
        return f"no watchdog: {error}"
    finally:
        if door is not None:
            door.close()
    return ""


def _note(mpi_comm: MPI.Intracomm, problem: str) -> None:
    """Say what could not be had, on the first rank that has to. Collective."""
    facts = np.array([mpi_comm.Get_rank() if problem else mpi_comm.Get_size()], np.int64)
    mpi_comm.Allreduce(MPI.IN_PLACE, facts, MPI.MIN)
    if problem and facts[0] == mpi_comm.Get_rank():
        print(f"hpcpar: note: {problem}", file=sys.stderr, flush=True)


def _members(mpi_comm: MPI.Intracomm) -> list[int]:
    """World ranks of a communicator."""
    if mpi_comm.Get_size() == MPI.COMM_WORLD.Get_size():
        compared = MPI.Comm.Compare(mpi_comm, MPI.COMM_WORLD)
        if compared in (MPI.IDENT, MPI.CONGRUENT):
            return list(range(mpi_comm.Get_size()))
    group, world = mpi_comm.Get_group(), MPI.COMM_WORLD.Get_group()
    try:
        return list(MPI.Group.Translate_ranks(group, None, world))
    finally:
        group.Free()
        world.Free()
