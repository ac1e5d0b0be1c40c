"""Ranks of a running training are killed or stopped, at moments drawn from a seed."""

import contextlib
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launch import members, mpirun_command, started

from hpcpar.launch.mpirun import FAULT_TOLERANT

__all__ = ["Blow", "Outcome", "draw_blows", "ranks_of", "strike"]


@dataclass(frozen=True)
class Blow:
    """A signal to a rank, in or after a step.

    Attributes: after, the step whose line in metrics.jsonl is waited for; delay, seconds from then;
    rank, an index into the ranks that are left then.
    """

    after: int
    delay: float
    rank: int
    number: signal.Signals = signal.SIGKILL


@dataclass
class Outcome:
    """How a run ended, and when each step was written down."""

    status: int
    text: str
    struck: list[tuple[float, int]] = field(default_factory=list)  # when, world rank
    rows: list[tuple[float, int]] = field(default_factory=list)  # when first seen, lines

    @property
    def sha256(self) -> str:
        """The last hash that was printed; nothing if the run did not come to its end.

        Lines of the launcher may follow.
        """
        found = re.findall(r"^weights sha256 (\w+)", self.text, re.MULTILINE)
        return found[-1] if found else ""

    def seconds_to_next_step(self) -> list[float]:
        """From each blow to the next line of metrics.jsonl that was not there before."""
        found = []
        for when, _ in self.struck:
            before = max((lines for at, lines in self.rows if at <= when), default=0)
            after = [at for at, lines in self.rows if at > when and lines > before]
            found += [min(after) - when] if after else []
        return found


def draw_blows(seed: int, count: int, steps: int, number: signal.Signals) -> list[Blow]:
    """So many, at different steps before the last ones."""
    rng = random.Random(seed)
    after = sorted(rng.sample(range(1, steps * 3 // 4), count))
    return [Blow(step, rng.random() * 0.05, rng.randrange(1 << 30), number) for step in after]


def strike(
    ranks: int, arguments: Sequence[str], folder: Path, blows: Sequence[Blow], limit: float = 60
) -> Outcome:
    """A training with `--recovery shrink` in `folder`, and its blows.

    Raises `subprocess.TimeoutExpired` after `limit` seconds: a hang.
    """
    command = mpirun_command(
        ranks, "-m", "hpcpar.train", *arguments, "--run.dir", str(folder), "--recovery", "shrink",
        options=FAULT_TOLERANT,
    )  # fmt: skip
    began, left = time.monotonic(), list(blows)
    with (folder.with_suffix(".log")).open("w+") as log, started(command, log) as process:
        outcome = Outcome(-1, "")
        due = 0.0  # when the next blow falls, once its step is there
        while process.poll() is None:
            now, lines = time.monotonic(), _lines(folder / "metrics.jsonl")
            if not outcome.rows or outcome.rows[-1][1] != lines:
                outcome.rows.append((now, lines))
            if left and lines >= left[0].after:
                due = due or now + left[0].delay
                if now >= due:
                    blow, due = left.pop(0), 0.0
                    _strike(process.pid, blow, outcome)
            if now - began > limit:
                raise subprocess.TimeoutExpired(command, limit, log.name)
            time.sleep(0.002)
        outcome.status = process.returncode
        log.seek(0)
        outcome.text = log.read()
    return outcome


def _strike(session: int, blow: Blow, outcome: Outcome) -> None:
    alive = ranks_of(session)
    if len(alive) < 2:
        return
    rank = sorted(alive)[blow.rank % len(alive)]
    outcome.struck.append((time.monotonic(), rank))
    os.kill(alive[rank], blow.number)


def ranks_of(session: int) -> dict[int, int]:
    """The ranks of a launch that live: process ids by rank in the world."""
    found = {}
    for pid in members(session):
        with contextlib.suppress(OSError):
            words = Path("/proc", str(pid), "environ").read_bytes().split(b"\0")
            own = dict(word.split(b"=", 1) for word in words if b"=" in word)
            if b"OMPI_COMM_WORLD_RANK" in own and _is_training(pid):
                found[int(own[b"OMPI_COMM_WORLD_RANK"])] = pid
    return found


def _is_training(pid: int) -> bool:
    """And not what it has started, such as its watcher."""
    return b"hpcpar.train" in Path("/proc", str(pid), "cmdline").read_bytes()


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0
