"""Progress for a person: a bar on a terminal, plain lines in a batch log."""

import os
import stat
import sys
import time
from types import TracebackType

__all__ = ["Progress", "on_terminal"]

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Shows step, loss, speed and time left of a run of `steps` steps; use it as a context manager.

    Args:
        start: the step that the run begins after (0, or a checkpoint's).
        steps: the step that it ends with.
        unit: what is counted per second, "tokens" or "samples".
    """

    def __init__(self, start: int, steps: int, unit: str) -> None:
        self._start, self._steps, self._unit = start, steps, unit
        self._began = self._last_line = time.monotonic()
        self._bar = _Bar(start, steps) if on_terminal() else None

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.display.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.display.stop()

    def step(self, step: int, loss: float, speed: float) -> None:
        """Tell that step number `step` (from 1) is done; `speed` in units a second."""
        rate = f"{speed:,.0f} {self._unit}/s"
        if self._bar:
            self._bar.display.update(self._bar.task, completed=step, loss=f"{loss:.4f}", rate=rate)
            return
        now = time.monotonic()
        first_or_last = step in (self._start + 1, self._steps)
        if first_or_last or now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = (now - self._began) / (step - self._start) * (self._steps - step)
            print(
                f"step {step}/{self._steps}  loss {loss:.4f}  {rate}  {left:.0f} s left", flush=True
            )

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self._bar:
            self._bar.display.console.print(text, highlight=False)
        else:
            print(text, flush=True)


class _Bar:
    def __init__(self, start: int, steps: int) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self.display = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        self.task = self.display.add_task("", total=steps, completed=start, loss="", rate="")


def on_terminal() -> bool:
    """Whether a person watches standard output.

    mpirun gives its ranks a pseudo-terminal even when its own output goes to a file, so the
    launcher's standard output counts too.
    """
    if not sys.stdout.isatty():
        return False
    try:
        mode = os.stat(f"/proc/{os.getppid()}/fd/1").st_mode
    except OSError:
        return True  # no /proc, or a launcher of another user: our own terminal is all we know
    return stat.S_ISCHR(mode)
