"""What a run tells, to the screen and to its folder. Rank 0 reports, the others are silent."""

import math
import time
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcpar.data import bigram_loss
from hpcpar.parallel.state import shapes
from hpcpar.parallel.timeline import KINDS
from hpcpar.run.folder import RunFolder
from hpcpar.run.plot import draw_loss
from hpcpar.run.progress import Progress

if TYPE_CHECKING:
    from hpcpar.config import Config
    from hpcpar.data import Dataset
    from hpcpar.parallel import ParallelModel

__all__ = ["Report"]

LARGEST_BIGRAM = 4096  # tokens: a table of their pairs has 128 MB


class Report:
    """Use it as a context manager around the steps; `folder` is None on all ranks but one.

    Args:
        start: the run does steps start + 1 to config.steps.
        rows: what is told of the last steps, kept here for whoever begins again after `start`.
    """

    def __init__(
        self,
        folder: RunFolder | None,
        start: int,
        config: "Config",
        dataset: "Dataset",
        model: "ParallelModel",
        rows: dict[int, dict[str, Any]] | None = None,
    ) -> None:
        comm = model.comm
        self._rows = {} if rows is None else rows
        self._model = model
        self._folder, self._start, self._config, self._dataset = folder, start, config, dataset
        self._layout = {"ranks": comm.size, "nodes": comm.nodes, **model.layout}
        self._unit = "samples" if dataset.kind == "table" else "tokens"
        self._per_step = model.dealt.samples * dataset.train.targets_per_sample
        self._row = self._rows.get(start, {})
        self._progress = Progress(start, config.steps, self._unit) if folder else None
        self._began = self._wall = 0.0
        self._before = dict.fromkeys(KINDS, 0.0)
        self._spent = dict.fromkeys(KINDS, 0.0)  # of the timeline, in steps
        weights = sum(prod(shape) for shape in shapes(model).values())
        self.say(
            f"{comm.size} rank{'s' * (comm.size > 1)} on {comm.nodes} node{'s' * (comm.nodes > 1)} "
            f"({comm.device}, {config.threads} thread{'s' * (config.threads > 1)} each), "
            f"{config.model.kind} with {weights:,} weights, {dataset.describe()}"
        )
        if start:
            self.say(f"continuing after step {start}")

    def __enter__(self) -> "Report":
        if self._progress:
            self._progress.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._progress:
            self._progress.__exit__(*error)

    def say(self, text: str) -> None:
        """A line on the screen."""
        if self._progress:
            self._progress.say(text)

    def begin_step(self) -> None:
        """The clock of a step starts."""
        self._before = self._model.timeline.read()
        self._began = time.monotonic()

    def step(self, step: int, loss: float, norm: float, rate: float, marks: dict[str, Any]) -> None:
        """Before the update: the loss, the gradient's norm before clipping, the learning rate.

        `marks`: what else the step's line says.
        """
        row = {"step": step, "loss": loss, "gradient_norm": norm, "learning_rate": rate}
        self._row = self._rows[step] = row | marks | self._speed()
        self._rows.pop(step - 2, None)  # the ranks that are left may stand one step before

    def updated(self) -> None:
        """The step is done."""
        self._row |= self._speed()
        self._wall += self._row["seconds"]
        for kind, total in self._model.timeline.read().items():
            self._spent[kind] += total - self._before[kind]
        self._show()

    def late(self, step: int, loss: float, norm: float, rate: float, seconds: float) -> None:
        """A step of which one learns when it is long done, and how long it took."""
        self._row = {
            "step": step, "loss": loss, "gradient_norm": norm, "learning_rate": rate,
            "seconds": seconds, f"{self._unit}_per_second": self._per_step / seconds,
        }  # fmt: skip
        self._wall += seconds
        now = self._model.timeline.read()
        for kind, total in now.items():
            self._spent[kind] += total - self._before[kind]
        self._before = now
        self._show()

    def _show(self) -> None:
        if self._progress:
            speed = self._row[f"{self._unit}_per_second"]
            self._progress.step(self._row["step"], self._row["loss"], speed)

    @property
    def spent(self) -> dict[str, float]:
        """Seconds of this rank in all its steps: wall, and by kind of the timeline."""
        return {"wall": self._wall, **self._spent}

    def _speed(self) -> dict[str, float]:
        seconds = time.monotonic() - self._began
        return {"seconds": seconds, f"{self._unit}_per_second": self._per_step / seconds}

    def evaluation(self, loss: float) -> None:
        """The validation loss after the step that was told last."""
        self._row["validation_loss"] = loss
        self.say(f"step {self._row['step']}: validation loss {self.describe(loss)}")

    def log(self) -> None:
        """Write the step's line into metrics.jsonl."""
        if self._folder:
            self._folder.log(self._row)

    def describe(self, loss: float) -> str:
        """A loss as text, in nats and for bytes also in bits per byte."""
        bytes_only = self._dataset.kind == "bytes"
        bits = f" ({loss / math.log(2):.4f} bits per byte)" if bytes_only else ""
        return f"{loss:.4f}{bits}"

    def finish(
        self, sha256: str, numerics: dict[str, str], more: Mapping[str, Any] | None = None
    ) -> None:
        """Write summary.json, with `more`, and loss.svg, and print the last lines. Collective."""
        row = list(self.spent.values())
        table = self._model.comm.allgather(np.array([row]))
        if not self._folder:
            return
        times = [dict(zip(("wall", *KINDS), row, strict=True)) for row in table.tolist()]
        rows = self._folder.metrics()
        last: dict[str, Any] = {key: value for row in rows for key, value in row.items()}
        # The first step pays for everything that is done once.
        steady = [row["seconds"] for row in rows if row["step"] > self._start + 1]
        speed = len(steady) * self._per_step / sum(steady) if steady else 0.0
        summary: dict[str, Any] = {"steps": self._config.steps}
        summary |= {key: last.get(key, math.nan) for key in ("loss", "validation_loss")}
        if self._dataset.kind == "bytes":
            summary["bits_per_byte"] = summary["validation_loss"] / math.log(2)
        baseline = self._baseline()
        if baseline:
            summary["bigram_loss"] = baseline
        draw_loss(
            self._folder.path / "loss.svg", rows, ("bigram model", baseline) if baseline else None
        )
        self._folder.finish(
            summary
            | {f"{self._unit}_per_second": speed, "weights_sha256": sha256}
            | {"layout": self._layout, "fingerprint": numerics, "data_sha256": self._dataset.digest}
            | {"seconds_of_ranks": times, **(more or {})}
        )
        print(f"validation loss {self.describe(summary['validation_loss'])}", end="")
        print(f"; a bigram model's is {self.describe(baseline)}" if baseline else "")
        print(f"{speed:,.0f} {self._unit}/s; {_shares(times)}")
        print(f"everything is in {self._folder.path}")
        print(f"weights sha256 {sha256}", flush=True)

    def _baseline(self) -> float | None:
        """What a model that knows one token of the past reaches on the same samples."""
        data = self._dataset
        if data.kind == "table" or data.vocabulary > LARGEST_BIGRAM:
            return None
        looks = data.validation.spread(self._config.run.evaluate_samples)
        return bigram_loss(data.train, data.validation, looks, data.vocabulary)


def _shares(times: Sequence[dict[str, float]]) -> str:
    """What the ranks' time went into, in words."""
    whole = sum(row["wall"] for row in times) or 1.0
    parts = {kind: sum(row[kind] for row in times) / whole for kind in KINDS}
    return "of a step: " + ", ".join(f"{kind} {part:.0%}" for kind, part in parts.items())
