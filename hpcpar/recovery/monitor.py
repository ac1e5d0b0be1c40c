"""What each rank does with its time and memory, in ranks.json; and who holds the others up."""

import os
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from hpcpar.comm import agree
from hpcpar.device import resident_bytes
from hpcpar.recovery.events import Events
from hpcpar.recovery.stragglers import Work, stragglers

if TYPE_CHECKING:
    from hpcpar.parallel import ParallelModel
    from hpcpar.run import RunFolder

__all__ = ["Monitor"]

SPENT = ("wall", "compute", "communication", "wait")  # seconds of a step
OTHER = ("rank", "pid", "place", "micros", "memory", "gpu_memory")  # -1 for unknown


class Monitor:
    """Every `every` steps rank 0 gathers what the ranks have measured since the last time.

    Args:
        folder: given on rank 0.
        every: 0 for never.
    """

    def __init__(
        self, model: "ParallelModel", folder: "RunFolder | None", every: int, events: Events
    ) -> None:
        """Collective."""
        self._model, self._folder, self._every, self._events = model, folder, every, events
        self._spent, self._steps = dict.fromkeys(SPENT, 0.0), 0
        self._slow: dict[int, float] = {}
        self._before: dict[int, float] = {}  # who was slow at the last look
        self._hosts = agree(model.comm, socket.gethostname()) if every else []

    def step(self, step: int, spent: Mapping[str, float]) -> None:
        """A step is done; `spent`, the seconds of all steps up to now by kind. Collective."""
        self._steps += 1
        if not self._every or step % self._every:
            return
        table = self._model.comm.gather(np.array([self._row(spent)]))
        self._spent, self._steps = dict(spent), 0
        if table is not None and self._folder is not None:
            self._tell(step, table)

    def _row(self, spent: Mapping[str, float]) -> list[float]:
        axes, device = self._model.axes, self._model.comm.device
        unknown = [-1 if n is None else n for n in (resident_bytes(), device.used_bytes())]
        own = [MPI.COMM_WORLD.Get_rank(), os.getpid(), axes.place, self._model.micros, *unknown]
        return [*((spent[kind] - self._spent[kind]) / self._steps for kind in SPENT), *own]

    def _tell(self, step: int, table: np.ndarray) -> None:
        ranks: list[dict[str, Any]] = []
        for host, row in zip(self._hosts, table.tolist(), strict=True):
            seconds, other = row[: len(SPENT)], row[len(SPENT) :]
            numbers = {k: None if n < 0 else int(n) for k, n in zip(OTHER, other, strict=True)}
            ranks.append({"host": host, **numbers, **dict(zip(SPENT, seconds, strict=True))})
        works = [Work(rank["place"], rank["compute"], rank["micros"]) for rank in ranks]
        found = stragglers(works, self._slow)
        # Once may be chance.
        slow = {r: ratio for r, ratio in found.items() if r in self._before or r in self._slow}
        self._before = found
        for number in sorted(slow.keys() ^ self._slow.keys()):
            ratio, rank = slow.get(number), ranks[number]
            how = f"{ratio:.1f} times as long as the others" if ratio else "like the others again"
            text = f"rank {rank['rank']} ({rank['host']}) computes {how}"
            self._events.note("straggler", text, step, self._model.comm)
        self._slow = slow
        for number, rank in enumerate(ranks):
            rank["straggler"] = slow.get(number)
        if self._folder is not None:
            self._folder.tell_ranks({"time": time.time(), "step": step, "ranks": ranks})
