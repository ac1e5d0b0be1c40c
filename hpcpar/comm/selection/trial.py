"""Times the candidates themselves."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpcpar.comm.selection.table import (
    DEFAULT,
    LARGE,
    OPERATIONS,
    Selection,
    Table,
    candidates,
)

if TYPE_CHECKING:
    from hpcpar.comm.communicator import Communicator

__all__ = ["make_table", "measure_selection", "pick"]

SIZES = (1 << 14, 1 << 18, 1 << 22)  # bytes; a choice holds up to half way, by factors, to the next
ROUNDS = 5  # of each candidate, the first one left out
SECONDS = 0.15  # for an operation
NEAR = 1.1
LARGE_BYTES, LARGE_ROUNDS = 1 << 25, 4  # of a large allreduce: beyond most caches


def measure_selection(comm: "Communicator") -> Selection:
    """Time the candidates of each operation, in turn, and take the fastest. Collective.

    Takes at most half a second or so: what a size would take is told from the size before, and
    where the time does not suffice, the choice is the schedules' own. The calls are those of a
    communicator of their own, with `comm`'s time limit and apart from its ledger.
    """
    trial = comm._split(0, comm.rank)  # which no ledger counts
    assert trial is not None
    with trial:
        tables = {
            name: _measure(trial, name, candidates(name, comm._place.map)) for name in OPERATIONS
        }
        if comm._reach is not None and comm.device.kind == "cpu":
            tables[LARGE] = _measure_large(trial, candidates(LARGE, comm._place.map))
    return Selection(tables)


def make_table(fastest: Sequence[str]) -> Table:
    """A table from the fastest algorithm at each size; the default beyond what was measured."""
    rows: list[tuple[int | None, str]] = []
    for place, size in enumerate(SIZES):
        choice = fastest[place] if place < len(fastest) else DEFAULT
        limit = 2 * size if place + 1 == len(fastest) else _between(place)
        if rows and rows[-1][1] == choice:
            rows.pop()
        rows.append((None if place + 1 == len(SIZES) else limit, choice))
    return tuple(rows)


def pick(names: Sequence[str], seconds: Sequence[float]) -> str:
    """The first that is nearly as fast as the fastest, so that noise changes no choice."""
    near = NEAR * min(seconds)
    return next(name for name, took in zip(names, seconds, strict=True) if took <= near)


def _between(place: int) -> int:
    return round((SIZES[place] * SIZES[min(place + 1, len(SIZES) - 1)]) ** 0.5)


def _measure(trial: "Communicator", operation: str, algorithms: Sequence[str]) -> Table:
    xp = trial.device.xp
    x = xp.ones(SIZES[-1] // 4, xp.float32)
    out = xp.empty_like(x)
    run: Callable[[int, str], object] = {
        "allreduce": lambda count, name: trial.allreduce(
            x[:count], out=out[:count], algorithm=name
        ),
        "bcast": lambda count, name: trial.bcast(x[:count], algorithm=name),
    }[operation]
    known = [name for name in algorithms if _is_known(run, name)]
    fastest: list[str] = []
    left = SECONDS
    for size in SIZES:
        rounds: list[list[float]] = []  # a duration for each candidate
        while known and len(rounds) < ROUNDS and left > 0:
            start = time.perf_counter()
            mine = [_duration(trial, run, size // 4, name) for name in known]
            mine.append(time.perf_counter() - start)  # barriers too
            # A call has taken what it took the slowest rank; so all ranks go on alike.
            *durations, spent = trial.allreduce(np.array(mine), op="max").tolist()
            rounds.append(durations)
            left -= spent
        if len(rounds) < 2:
            break
        medians = np.median(rounds[1:], axis=0)
        fastest.append(pick(known, medians.tolist()))
        # The first size says little of the next: what it takes is mostly latency.
        if len(fastest) == 2 and 2 * SIZES[2] / SIZES[1] * float(medians.sum()) > left:
            break
    return make_table(fastest)


def _measure_large(trial: "Communicator", algorithms: Sequence[str]) -> Table:
    """One row, for all sizes: every rank reads and writes more than its cache holds."""
    x = np.ones(LARGE_BYTES // 4, np.float32)
    rounds = [
        [
            _duration(trial, lambda _, name: trial.allreduce(x, out=x, algorithm=name), 0, name)
            for name in algorithms
        ]
        for _ in range(LARGE_ROUNDS)
    ]
    slowest = trial.allreduce(np.array(rounds[1:]), op="max")
    return ((None, pick(algorithms, np.median(slowest, axis=0).tolist())),)


def _is_known(run: Callable[[int, str], object], name: str) -> bool:
    """Whether this version has the algorithm: it is refused before anything is sent."""
    try:
        run(1, name)
    except ValueError as error:
        if "algorithm is" in str(error):
            return False
        raise
    return True


def _duration(
    trial: "Communicator", run: Callable[[int, str], object], count: int, name: str
) -> float:
    trial.barrier()
    start = time.perf_counter()
    run(count, name)
    return time.perf_counter() - start
