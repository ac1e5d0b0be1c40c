"""What the files of a run say. They may be absent, half-written or anything else."""

import json
import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Seen", "number", "read", "state", "words"]

TAIL = 1 << 18  # bytes that are read of the end of a file
LARGEST = 1 << 24  # bytes of a file that is read as a whole
SILENT = 30.0  # seconds, and so many usual steps:
SILENT_STEPS = 10

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Seen:
    """Attributes: rows of metrics.jsonl and events.jsonl, the last ones; ranks of ranks.json;
    checkpoint, the step of the newest one; written, when (seconds of the epoch) the run last wrote
    a line.
    """

    folder: Path
    config: Row = field(default_factory=dict)
    rows: Sequence[Row] = ()
    events: Sequence[Row] = ()
    ranks: Sequence[Row] = ()
    ranks_step: int | None = None
    checkpoint: int | None = None
    summary: Row | None = None
    written: float | None = None

    @property
    def step(self) -> int:
        """The last one that has its line."""
        return int(number(self.rows[-1], "step") or 0) if self.rows else 0

    @property
    def steps(self) -> int | None:
        """Of the run."""
        found = number(self.config, "steps")
        return None if found is None else int(found)

    @property
    def step_seconds(self) -> float | None:
        """The mean of the last steps."""
        seconds = [s for row in self.rows[-50:] if (s := number(row, "seconds")) is not None]
        return sum(seconds) / len(seconds) if seconds else None

    def last(self, key: str) -> float | None:
        """The last number of this name in the rows."""
        found = (number(row, key) for row in reversed(self.rows))
        return next((value for value in found if value is not None), None)


def read(folder: Path) -> Seen:
    """What there is now; never raises for what the files hold."""
    rows = [row for row in _lines(folder / "metrics.jsonl") if number(row, "step") is not None]
    told = _table(folder / "ranks.json") or {}
    ranks = told.get("ranks")
    step = number(told, "step")
    names = "metrics.jsonl", "events.jsonl", "config.toml"
    times = [when for name in names if (when := _modified(folder / name)) is not None]
    return Seen(
        folder,
        _config(folder / "config.toml"),
        rows,
        _lines(folder / "events.jsonl"),
        [rank for rank in ranks if isinstance(rank, dict)] if isinstance(ranks, list) else [],
        None if step is None else int(step),
        _checkpoint(folder / "checkpoints"),
        _table(folder / "summary.json"),
        max(times, default=None),
    )


def state(seen: Seen, now: float) -> tuple[str, str]:
    """absent, running, silent, stopped or done; and that in words."""
    if seen.summary is not None:
        return "done", "done"
    if seen.written is None:
        return "absent", "there is no run here yet"
    if seen.events and (kind := words(seen.events[-1], "kind")) in ("failed", "stopped"):
        return "stopped", f"{kind}: {words(seen.events[-1], 'text')}"
    age = max(0.0, now - seen.written)
    if age > SILENT + SILENT_STEPS * (seen.step_seconds or 0.0):
        return "silent", f"silent: it has written nothing for {duration(age)}"
    return "running", f"running; the last line is {duration(age)} old"


def duration(seconds: float) -> str:
    """For people."""
    whole = int(min(seconds, 1e9))
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def number(row: Row, key: str) -> float | None:
    """A finite number of this name; None for anything else."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def words(row: Row, key: str) -> str:
    """A text of this name, on one line, without what a terminal would obey."""
    value = row.get(key)
    text = value if isinstance(value, str) else ""
    return "".join(c if c.isprintable() else " " for c in text)


def _bytes(path: Path, tail: int) -> bytes:
    """The end of a regular file; nothing where there is none."""
    try:
        # Not blocking: opening a pipe would wait for its writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - tail))
            return file.read(tail)
    except (OSError, ValueError):
        return b""


def _json(text: bytes) -> Row | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _lines(path: Path) -> list[Row]:
    """The objects among the last lines; a line that was cut off is none."""
    return [row for line in _bytes(path, TAIL).split(b"\n") if (row := _json(line)) is not None]


def _table(path: Path) -> Row | None:
    return _json(_bytes(path, LARGEST))


def _config(path: Path) -> Row:
    try:
        return tomllib.loads(_bytes(path, LARGEST).decode())
    except (ValueError, RecursionError):
        return {}


def _checkpoint(folder: Path) -> int | None:
    """The step of the newest one; those under way have other names."""
    try:
        names = os.listdir(folder)
    except (OSError, ValueError):
        return None
    steps = [name.removeprefix("step-") for name in names if name.startswith("step-")]
    return max((int(s) for s in steps if s.isascii() and s.isdigit() and len(s) < 19), default=None)


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except (OSError, ValueError):
        return None
