"""The folder of a run.

config.toml     complete: `python -m hpcpar.train config.toml` runs the same again
metrics.jsonl   a line a step, flushed
events.jsonl    a line for whatever happens: lost ranks, checkpoints, stragglers, spikes
ranks.json      what each rank does, newly written every few steps
checkpoints/    see hpcpar/checkpoint
loss.svg        the loss over the steps
trace.json      with --run.trace: for ui.perfetto.dev; timeline.svg and timeline_planned.svg
summary.json    written at the end; a run that has one is complete
"""

import contextlib
import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcpar.errors import UserError
from hpcpar.files import write_whole

__all__ = ["RunConfig", "RunFolder", "event", "read_config", "replayable"]


@dataclass
class RunConfig:
    """Where a run writes, and how often it looks at its validation loss.

    Args:
        dir: The run's folder; empty makes a new one under runs/, named by date and time.
        resume: Continue the run in this folder, on whatever ranks there are now.
        evaluate_every: Steps between two looks at the validation loss; 0 looks at the end only.
        evaluate_samples: Validation samples in each such look; 0 takes all of them.
        trace: Steps, from the second on, of which a timeline is written; 0 for none.
        monitor_every: Steps between two looks at what each rank does; 0 for none.
    """

    dir: str = ""
    resume: bool = False
    evaluate_every: int = 100
    evaluate_samples: int = 512
    trace: int = 0
    monitor_every: int = 10


class RunFolder:
    """Writes a run's files; only one rank has one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"

    @classmethod
    def claim(cls, config: RunConfig) -> "RunFolder":
        """The folder that `config` names, not yet touched.

        Raises `UserError` when it holds something and the run is not resumed.
        """
        path = Path(config.dir or time.strftime("runs/%Y-%m-%d-%H%M%S"))
        try:
            used = path.exists() and (not path.is_dir() or any(path.iterdir()))
        except OSError as error:
            raise UserError(f"run folder {path} cannot be read: {error.strerror}") from None
        if used and config.resume and not (path / "config.toml").is_file():
            raise UserError(f"run folder {path} holds no config.toml: it is no run to be resumed")
        if used and not config.resume:
            raise UserError(
                f"run folder {path} is already used: name another with --run.dir, "
                "or continue it with --run.resume true"
            )
        return cls(path)

    def start(self, config: Any, step: int) -> None:
        """Write config.toml, and keep those lines of metrics.jsonl that lie before `step`.

        Raises `UserError` when the folder cannot be written.
        """
        metrics = self.path / "metrics.jsonl"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self.path / "config.toml", replayable(config))
            kept = [row for row in self.metrics() if row["step"] <= step]
            write_whole(metrics, "".join(json.dumps(row) + "\n" for row in kept))
            (self.path / "summary.json").unlink(missing_ok=True)
            self._metrics = metrics.open("a")
        except OSError as error:
            raise UserError(f"run folder {self.path} cannot be written: {error.strerror}") from None

    def log(self, row: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl and hand it to the operating system at once."""
        self._metrics.write(json.dumps(row) + "\n")
        self._metrics.flush()

    def tell(self, happened: dict[str, Any]) -> None:
        """Append a line to events.jsonl. A disk that takes none ends no run."""
        with contextlib.suppress(OSError), (self.path / "events.jsonl").open("a+b") as file:
            file.seek(max(0, file.tell() - 1))
            cut_off = file.read() not in (b"", b"\n")  # by a crash
            file.write(b"\n" * cut_off + json.dumps(happened).encode() + b"\n")

    def tell_ranks(self, ranks: dict[str, Any]) -> None:
        """Write ranks.json; a disk that does not take it ends no run."""
        with contextlib.suppress(OSError):
            write_whole(self.path / "ranks.json", json.dumps(ranks) + "\n", durable=False)

    def metrics(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl; one that a crash cut off is left out."""
        try:
            lines = (self.path / "metrics.jsonl").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        rows = []
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                break
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                break
            rows.append(row)
        return rows

    def finish(self, summary: dict[str, Any]) -> None:
        """Write summary.json, whole or not at all."""
        self._metrics.close()
        steps = summary["steps"]
        self.tell(event("finished", f"all {steps} steps are done", steps))
        write_whole(self.path / "summary.json", json.dumps(summary, indent=1) + "\n")


def event(kind: str, text: str, step: int) -> dict[str, Any]:
    """A line of events.jsonl: something has happened now, after `step`."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"time": stamp, "step": step, "kind": kind, "text": text}


def replayable(config: Any) -> str:
    """A run.toml that runs the same again, in a new folder."""
    import tomli_w

    table = dataclasses.asdict(config)
    table["run"] |= {"dir": "", "resume": False}
    return tomli_w.dumps(table)


def read_config(path: Path) -> dict[str, Any]:
    """The config.toml of a run's folder; raises `UserError` when `path` is not one."""
    import tomllib

    try:
        return tomllib.loads((path / "config.toml").read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is not the folder of a run: it has no config.toml") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path / 'config.toml'} cannot be read: {error}") from None
