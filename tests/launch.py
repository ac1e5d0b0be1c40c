"""Starting programs from tests, with a hard limit, and leaving nothing behind."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeVar

__all__ = ["members", "mpirun_command", "run", "side_by_side", "start_mpirun", "started"]

ROOT = Path(__file__).resolve().parent.parent
SIDE_BY_SIDE = 3  # launches
T = TypeVar("T")


def mpirun_command(
    ranks: int, *arguments: str, python: str = sys.executable, options: Sequence[str] = ()
) -> list[str]:
    """The command line that runs `python arguments...` on so many ranks."""
    mpirun = [str(ROOT / "tools" / "mpirun"), *options, "-n", str(ranks)]
    return [*mpirun, python, *map(str, arguments)]


def start_mpirun(
    ranks: int,
    *arguments: str,
    limit: float = 60,
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run this Python with `arguments` under mpirun; its status, standard output and error as text.

    `env` is added to the environment. Raises `subprocess.TimeoutExpired` after `limit` seconds,
    with what was printed until then, when no process of the launch is left.
    """
    return run(mpirun_command(ranks, *arguments), limit, env=env, cwd=cwd, capture=True)


def run(
    command: Sequence[str],
    limit: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
    capture: bool = False,
) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` in a session of its own, which is ended as a whole, whatever happens."""
    pipe = subprocess.PIPE if capture else None
    with _session(command, env, stdout=pipe, stderr=pipe, errors="replace", cwd=cwd) as process:
        try:
            stdout, stderr = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            _end_session(process.pid)
            stdout, stderr = process.communicate()
            raise subprocess.TimeoutExpired(command, limit, stdout, stderr) from None
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def side_by_side(starts: Mapping[str, Callable[[], T]]) -> dict[str, Future[T]]:
    """Call all of these, some at a time; their results by name, when all are there.

    For launches that mostly wait: for a limit, or for one of their ranks.
    """
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        return {name: pool.submit(start) for name, start in starts.items()}


@contextlib.contextmanager
def started(
    command: Sequence[str], output: IO[str], env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A process in a session of its own, which is ended as a whole at the end of the block."""
    with _session(command, env, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT) as process:
        yield process


@contextlib.contextmanager
def _session(
    command: Sequence[str], env: Mapping[str, str] | None, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    with (
        _environment(command, env) as environment,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, text=True, env=environment, start_new_session=True,
            **options,
        ) as process,
    ):  # fmt: skip
        try:
            yield process
        finally:
            _end_session(process.pid)


@contextlib.contextmanager
def _environment(command: Sequence[str], env: Mapping[str, str] | None) -> Iterator[dict[str, str]]:
    """The interpreter's view of the environment, and `env`; after MPI_Init the C one has a rank.

    Open MPI's launches of a user share a folder, which the last one removes while another may be
    about to write there ("the PMIx server's listener thread failed to start"): so each has its own.
    """
    with tempfile.TemporaryDirectory(prefix="mpi", ignore_cleanup_errors=True) as folder:
        own = {"PRTE_MCA_prte_tmpdir_base": folder, "VIRTUAL_ENV": _environment_of(command)}
        yield {**os.environ, **own, **(env or {})}


def _environment_of(command: Sequence[str]) -> str:
    """The virtual environment of the Python in a command line; ours if there is none."""
    for word in command:
        path = Path(word)
        if path.name.startswith("python") and path.parent.name == "bin":
            return str(path.parent.parent)
    return sys.prefix


def _end_session(session: int) -> None:
    """Ask all processes of a session to end, then make them: ranks have groups of their own."""
    deadline = time.monotonic() + 3
    while left := members(session):
        kill = time.monotonic() > deadline
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if kill else signal.SIGTERM)
        time.sleep(0.05)


def members(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                stat = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
                if stat[0] != "Z" and int(stat[3]) == session:  # state, ppid, pgrp, session
                    found.append(int(name))
    return found
