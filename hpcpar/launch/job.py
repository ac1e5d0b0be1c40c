"""One job: its output is passed on, its signs of life are watched, and nothing of it is left."""

import contextlib
import ctypes
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpcpar.launch.mpirun import Launch

__all__ = ["Job", "adopt_orphans", "is_unfinished", "newest_step", "wants_all"]

LOOK = 0.1  # seconds between two looks at the job
ORDERLY = 10.0  # seconds that mpirun has to end its ranks
LINGER = 2.0  # seconds that what has lost its mpirun has to end by itself
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Job:
    """A running job, whose training writes into `folder`; `spared` is no process of it."""

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], folder: Path, spared: int = 0
    ) -> None:
        self._metrics = folder / "metrics.jsonl"
        self._before = _size(self._metrics)
        self._spared = spared
        self._launch = Launch(
            command, env=dict(environ), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        self._outputs = selectors.DefaultSelector()
        for pipe, to in ((self._launch.process.stdout, 1), (self._launch.process.stderr, 2)):
            assert pipe is not None
            self._outputs.register(pipe, selectors.EVENT_READ, to)
        self._began, self._alive = time.monotonic(), False
        self._early = False  # asked to stop before there was a sign of life

    def wait(self, start_limit: float) -> tuple[int, bool]:
        """The status of the job, and whether it was ended for it showed no sign of life.

        That is output, or a line of metrics.jsonl, within `start_limit` seconds. A training that
        has shown one ends by itself when it hangs (docs/flight.md).
        """
        hung = False
        while self._launch.status is None:
            self._pass_on(LOOK)
            self._alive = self._alive or _size(self._metrics) != self._before
            if self._early and self._alive:  # there may have been no rank to take the signal
                self._early = False
                self._launch.process.send_signal(signal.SIGUSR1)
            if not self._alive and time.monotonic() - self._began > start_limit:
                hung = True
                self._end()
        deadline = time.monotonic() + LINGER  # somebody may hold the pipes open
        while self._outputs.get_map() and time.monotonic() < deadline and self._pass_on(LOOK):
            pass
        _end_orphans(self._spared)
        for key in list(self._outputs.get_map().values()):
            self._outputs.unregister(key.fileobj)
        for pipe in (self._launch.process.stdout, self._launch.process.stderr):
            assert pipe is not None
            pipe.close()
        return self._launch.status, hung

    def stop(self) -> None:
        """Ask it to save and end; the second time, end it."""
        self._early = not self._alive
        self._launch.stop()

    def _pass_on(self, seconds: float) -> bool:
        """What it says within so much time; whether it said anything."""
        ready = self._outputs.select(seconds)
        if not self._outputs.get_map():
            time.sleep(seconds)
        for key, _ in ready:
            text = os.read(key.fd, 1 << 16)
            if not text:
                self._outputs.unregister(key.fileobj)
                continue
            self._alive = True
            while text:
                try:
                    text = text[os.write(key.data, text) :]
                except OSError:  # nobody listens
                    break
        return bool(ready)

    def _end(self) -> None:
        process = self._launch.process
        process.send_signal(signal.SIGHUP)
        try:
            process.wait(ORDERLY)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def adopt_orphans() -> None:
    """From now on processes of a job that lose their parent become this one's children."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def newest_step(folder: Path) -> int:
    """The last step that metrics.jsonl tells of; 0 for none."""
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, _size(folder / "metrics.jsonl") - (1 << 16)))
            lines = file.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return int(json.loads(line)["step"])
    return 0


def wants_all(folder: Path) -> bool:
    """Whether the run has stopped for lost ranks to be started again: its last event says so."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        last = (folder / "events.jsonl").read_text().splitlines()[-1]
        return bool(json.loads(last)["kind"] == "regrow")
    return False


def is_unfinished(folder: Path) -> bool:
    """Whether there is a run that has not come to its end."""
    return (folder / "config.toml").is_file() and not (folder / "summary.json").is_file()


def _end_orphans(spared: int) -> None:
    """What is left of a job on this node has some time, and is killed then."""
    began = time.monotonic()
    while (children := _children(spared)) and time.monotonic() - began < LINGER + ORDERLY:
        if time.monotonic() - began > LINGER:
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        for child in children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)


def _children(spared: int) -> list[int]:
    children = []
    for name in {*filter(str.isdigit, os.listdir("/proc"))} - {str(spared)}:
        with contextlib.suppress(OSError):
            stat = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
            if int(stat[1]) == os.getpid():  # state, parent
                children.append(int(name))
    return children


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
