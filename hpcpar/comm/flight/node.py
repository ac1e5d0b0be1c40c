"""The ranks of one node, as its watcher sees them from outside: by their files and by /proc."""

import contextlib
import mmap
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from hpcpar.apart.links import Line, Message
from hpcpar.comm.flight import layout
from hpcpar.comm.flight.folder import recorder_name, remove, stack_name
from hpcpar.comm.flight.layout import decode, pulse
from hpcpar.comm.flight.rows import Row, make_row, missing_row
from hpcpar.comm.flight.signals import END_SIGNAL, STACK_SIGNAL, frames, position
from hpcpar.comm.flight.verdict import Key

__all__ = ["LocalRank", "Node", "end_launchers"]

STACK_LIMIT = 1.0  # seconds for a rank to write its stack
END_LIMIT = 2.0  # seconds for a rank to end
FIRST_LIMIT = 3.0  # seconds for the launcher to end the others after the first
ALONE_LIMIT = 0.5  # the same where it would leave them alive
FIRST_LOOK = 1.0  # seconds without a change before a rank is looked at closely
JOIN_LIMIT = 10.0  # seconds for a rank to be heard of
LAUNCHER_LIMIT = 6.0  # seconds for a launcher to end after its ranks
LAUNCHERS = ("mpirun", "mpiexec", "prterun", "prted")  # Open MPI's
RETRY = 8.0  # seconds after which a hang that was told is told again


class LocalRank:
    """One rank: its process, its recorder, and for how long it has been quiet."""

    def __init__(self, hello: Message, pid: int, line: Line, descriptors: list[int]) -> None:
        self.rank, self.pid, self.line = int(hello["rank"]), pid, line
        self.signals: list[str] = hello["signals"]  # those it has taken: end, stack
        self.folder = Path(hello["folder"]) if hello["folder"] else None  # of its files
        self.gone = self.left = False  # its process is over; and it had said that it would be
        self.process = -1
        try:
            self.process = os.pidfd_open(pid)
        except ProcessLookupError:
            self.gone = True
        self.memory = mmap.mmap(descriptors[0], layout.FILE_BYTES, access=mmap.ACCESS_READ)
        self.words = memoryview(self.memory).cast("q")
        self.stack = descriptors[1]
        self.parent = _parent(pid)
        self.told = 0  # how often its hang was told
        self.quiet = 0.0  # seconds that this watcher has seen it without any change
        self._beat = pulse(self.words)
        self._look = FIRST_LOOK
        self._key: Key | None = None

    def state(self) -> str:
        """running, stopped, paused (by a debugger), ended or dead."""
        if self.gone:
            return "ended" if self.left else "dead"
        _, letter, _ = _stat(self.pid)
        if letter in "ZX":
            return "ended" if self.left else "dead"
        return {"T": "stopped", "t": "paused"}.get(letter, "running")

    def hung(self, elapsed: float, watch: int) -> Key | None:
        """The call that it has waited in for too long; asked after each `elapsed` seconds."""
        beat = pulse(self.words)
        if beat != self._beat:
            self._beat, self._look, self._key = beat, FIRST_LOOK, None
            self.quiet, self.told = 0.0, 0
            return None
        self.quiet += elapsed
        if self.quiet < self._look:
            return None
        if self._key is None:
            self._look_closely(watch)
            return None
        self._look = self.quiet + RETRY
        return self._key

    def _look_closely(self, watch: int) -> None:
        """Find out what it waits in and how long it may; this lasts until something changes."""
        self._look = float("inf")
        words, head = self.words, self.words[layout.HEAD]
        calling = words[head + layout.END] == 0 and words[head + layout.OPERATION] < layout.REQUEST
        if not words[layout.WAIT] and not calling:
            return
        snapshot = decode(self.memory[:])
        call = snapshot.waiting
        group = snapshot.groups.get(call.group) if call else None
        if call is not None and group is not None and group.watch == watch:
            timeout = group.timeout / 1e9
            self._key = call.group, call.kind, call.number
            self._look = timeout + max(2.0, timeout / 10)  # its own error comes first

    def restart_clock(self) -> None:
        """Its wait counts from now on."""
        self.quiet, self._look, self._key, self.told = 0.0, FIRST_LOOK, None, 0

    def signal(self, number: int) -> None:
        """Send a signal, to this process or to none."""
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self.process, number)

    def row(self, state: str, stack: list[str]) -> Row:
        """Its row now."""
        where, inside = position(stack)
        state = "stopped" if state == "paused" else state
        try:
            return make_row(decode(self.memory[:]), time.monotonic_ns(), state, where, inside)
        except ValueError:  # half written
            return missing_row(self.rank)


class Node:
    """All ranks of the node that the watcher knows."""

    def __init__(self, expected: dict[int, int], watch: int) -> None:
        self.expected, self.watch = expected, watch  # process ids by rank
        self.ranks: dict[int, LocalRank] = {}

    @property
    def living(self) -> list[LocalRank]:
        """Ranks whose processes are not over."""
        return [rank for rank in self.ranks.values() if not rank.gone]

    def over(self, age: float) -> bool:
        """Whether all ranks are gone, `age` seconds after they were told of this watcher."""
        if self.living:
            return False
        absent = [pid for rank, pid in self.expected.items() if rank not in self.ranks]
        return not absent or age > JOIN_LIMIT or (age > 1 and not any(map(_exists, absent)))

    def expects_more(self) -> bool:
        """Whether there are ranks alive that have not come yet."""
        absent = [pid for rank, pid in self.expected.items() if rank not in self.ranks]
        return any(map(_exists, absent))

    @property
    def all_left(self) -> bool:
        """Whether all ranks came to an orderly end."""
        return all(rank in self.ranks and self.ranks[rank].left for rank in self.expected)

    def remove_files(self) -> None:
        """Leave nothing behind."""
        for rank in self.ranks.values():
            if rank.folder is not None:
                remove(rank.folder, [recorder_name(rank.rank), stack_name(rank.rank)])

    def hung(self, elapsed: float) -> tuple[LocalRank, Key] | None:
        """A rank that has waited for too long, and its call."""
        for rank in self.living:
            key = rank.hung(elapsed, self.watch)
            if key is None:
                continue
            states = {other.state() for other in self.living}
            if "paused" in states or states == {"stopped"}:
                # Under a debugger, or the whole job was put to sleep: that time does not count.
                for other in self.living:
                    other.restart_clock()
                return None
            if rank.state() == "running":
                rank.told += 1
                return rank, key
        return None

    def rows(self) -> list[Row]:
        """A row for each rank of this node, within about a second."""
        # One that has said goodbye may still wait in MPI_Finalize: its program is over.
        states = {
            number: "ended" if rank.left else rank.state() for number, rank in self.ranks.items()
        }
        rows = {number: rank.row(states[number], []) for number, rank in self.ranks.items()}
        asked = []
        for number, rank in self.ranks.items():
            computes = states[number] == "running" and rows[number].call is None
            if computes and "stack" in rank.signals:
                os.ftruncate(rank.stack, 0)
                os.lseek(rank.stack, 0, os.SEEK_SET)  # the rank writes by the same open file
                rank.signal(STACK_SIGNAL)
                asked.append(rank)
        for number, stack in _read_stacks(asked).items():
            rows[number] = self.ranks[number].row(states[number], stack)
        return [rows.get(number) or missing_row(number) for number in self.expected]

    def kill(self, ranks: Sequence[int]) -> None:
        """Kill those of these ranks that are here."""
        for rank in self.living:
            if rank.rank in ranks:
                rank.signal(signal.SIGKILL)

    def end(self, recovers: bool) -> None:
        """End all ranks with exit status 3, whatever they are doing.

        Stopped ones first, which the launcher would let go on, or else one. At its status the
        launcher ends the others, unless the job `recovers`: Open MPI's has crashed where all ended
        at the same moment.
        """
        living = sorted(self.living, key=lambda rank: "end" not in rank.signals)
        launchers = _hydra_proxies(living)
        for launcher in launchers:
            _kill(launcher, signal.SIGSTOP)
        if not launchers:
            _end([rank for rank in living if rank.state() == "stopped"] or living[:1])
            _wait(living, ALONE_LIMIT if recovers else FIRST_LIMIT)
        _end(living)
        if not _wait(living, END_LIMIT):
            for rank in living:
                rank.signal(signal.SIGKILL)
        for launcher in launchers:
            _kill(launcher, signal.SIGCONT)


def end_launchers(parents: set[int]) -> None:
    """Open MPI's launchers that outlive their ranks: one waits for a node that it cannot reach."""
    deadline = time.monotonic() + LAUNCHER_LIMIT
    while left := {pid for pid in parents if _command(pid) in LAUNCHERS}:
        if time.monotonic() > deadline:
            for pid in left:
                _kill(pid, signal.SIGKILL)
            return
        time.sleep(0.05)


def _end(ranks: Sequence[LocalRank]) -> None:
    """Have ranks end with exit status 3, where they let us."""
    for rank in ranks:
        rank.signal(END_SIGNAL if "end" in rank.signals else signal.SIGKILL)
        rank.signal(signal.SIGCONT)  # a stopped one ends when it goes on


def _wait(ranks: Sequence[LocalRank], limit: float) -> bool:
    """Wait until all of these ranks are over, `limit` seconds at most; whether they are."""
    deadline = time.monotonic() + limit
    while any(rank.state() not in ("dead", "ended") for rank in ranks):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _read_stacks(asked: list[LocalRank]) -> dict[int, list[str]]:
    """What the ranks that were asked have written, once it does not grow any more."""
    stacks: dict[int, list[str]] = {}
    sizes: dict[int, int] = {}
    deadline = time.monotonic() + STACK_LIMIT
    while len(stacks) < len(asked) and time.monotonic() < deadline:
        time.sleep(0.02)
        for rank in asked:
            size = os.fstat(rank.stack).st_size
            if size and sizes.get(rank.rank) == size:
                text = os.pread(rank.stack, 1 << 16, 0).decode(errors="replace")
                stacks[rank.rank] = frames(text)
            sizes[rank.rank] = size
    return stacks


def _hydra_proxies(ranks: Sequence[LocalRank]) -> set[int]:
    """MPICH's process managers above these ranks.

    At the first rank that ends, Hydra sends SIGKILL to the others, and mpiexec returns 9 in place
    of 3 if one of them had not ended by itself yet. So it is held until all have. Others return
    the status of the first (Open MPI), and are left alone.
    """
    proxies = set()
    for rank in ranks:
        if _command(rank.parent) == "hydra_pmi_proxy":
            proxies.add(rank.parent)
    return proxies


def _parent(pid: int) -> int:
    """The parent of a process; 0 if it is gone."""
    return int(_stat(pid)[2])


def _command(pid: int) -> str:
    """The name of a process that runs; "" of one that is over."""
    name, state, _ = _stat(pid)
    return "" if state in "ZX" else name


def _stat(pid: int) -> tuple[str, str, str]:
    """Name, state and parent of a process; X for one that is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            name, _, rest = file.read().partition("(")[2].rpartition(")")
    except OSError:
        return "", "X", "0"
    return name, *rest.split()[:2]  # type: ignore[return-value]


def _exists(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, number)
