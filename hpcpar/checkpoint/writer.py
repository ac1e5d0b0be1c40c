"""Writing checkpoints beside the training: each rank its own part, in a thread.

begin    what this rank alone updates is copied, and a thread starts to write it
advance  when all threads are done, rank 0 learns of all parts, and its thread writes the
         manifest, flushes and renames
finish   the same, and waits for it

Threads touch files only: all communication is in the calls, at the same place on every rank.
"""

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from hpcpar.checkpoint.commit import commit
from hpcpar.checkpoint.job import Job
from hpcpar.checkpoint.manifest import Facts, Manifest, PartFile
from hpcpar.checkpoint.part_file import write_part
from hpcpar.checkpoint.places import part_name, partial_of, place_of, remove_leftovers
from hpcpar.checkpoint.waiting import all_done, await_jobs
from hpcpar.comm import agree, together
from hpcpar.device import to_host
from hpcpar.errors import LostRankError, StoppedError, UserError
from hpcpar.parallel.parts import Part
from hpcpar.parallel.state import owned

if TYPE_CHECKING:
    from hpcpar.parallel import ParallelModel

__all__ = ["Writer"]


@dataclass
class _UnderWay:
    """A checkpoint that is being written; `publishing` is None on all ranks but 0."""

    facts: Facts
    place: Path
    parts: tuple[Part, ...]
    writing: Job[tuple[int, str]] | None
    publishing: Job[None] | None = None

    @property
    def job(self) -> "Job[Any] | None":
        return self.writing or self.publishing


class Writer:
    """Checkpoints of a model that many ranks train, below `folder`.

    >>> with Writer(model, folder, keep=2) as checkpoints:
    ...     checkpoints.begin(step, sampler.state(step))      # when one is due
    ...     checkpoints.advance()                             # after every step

    All calls are collective, and raise `UserError` on all ranks when one cannot write; then nothing
    of that checkpoint is left. At the end of the block what is under way is finished, also when it
    ends with a `UserError` or `StoppedError`, which all ranks raise. A checkpoint of a step that is
    there already, and whole, stays as it is.

    Args:
        folder: given on rank 0, for all; made where it is not there.
        keep: how many of the newest stay.
        fingerprint, data, config: what every checkpoint says of its run.
        written: called on every rank with the step of each checkpoint that is complete.
    """

    def __init__(
        self,
        model: "ParallelModel",
        folder: Path | None,
        keep: int,
        fingerprint: Mapping[str, str] | None = None,
        data: str = "",
        config: str = "",
        written: Callable[[int], None] = lambda step: None,
    ) -> None:
        self._model, self._comm, self._keep = model, model.comm, keep
        self._about = dict(fingerprint or {}), data, config
        self._written = written
        self._kinds = ("weights", *model.update.optimizer.kinds)
        self._copies = np.empty((len(self._kinds), 0), np.float32)  # used again and again
        self._under_way: _UnderWay | None = None
        with together(self._comm):
            if folder is not None:
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                    remove_leftovers(folder)
                except OSError as error:
                    raise UserError(f"checkpoints cannot be written: {error}") from None
        told = agree(self._comm, None if folder is None else str(folder.absolute()))
        self._folder = Path(told[0] or "")

    @property
    def under_way(self) -> bool:
        """Whether a checkpoint is being written; the same on all ranks."""
        return self._under_way is not None

    def begin(self, step: int, sampler: tuple[int, int], balance: Any = None) -> None:
        """Start to write the state after `step` steps. What is under way is finished first.

        Raises `UserError` for weights that are no numbers: nobody could go on with them.
        """
        self.finish()
        place = place_of(self._folder, step)
        with self._agreed(place):
            parts = self._copy(step)
            if self._comm.rank == 0:
                partial_of(place).mkdir()
        path = partial_of(place) / part_name(self._comm.rank)
        job = Job(partial(write_part, path, self._kinds, self._copies))
        self._under_way = _UnderWay(Facts(step, sampler, *self._about, balance), place, parts, job)

    def advance(self) -> None:
        """Do what can be done without waiting for a disk."""
        if self._under_way is not None and all_done(self._comm, self._under_way.job):
            self._go_on(self._under_way)

    def finish(self) -> None:
        """Wait for what is under way.

        Raises `UserError` when a rank's disk does nothing for as long as a wait may last.
        """
        while self._under_way is not None:
            try:
                await_jobs(self._comm, self._under_way.job)
            except UserError as error:
                with self._agreed(self._under_way.place):
                    raise UserError(
                        f"checkpoint {self._under_way.place} cannot be written: {error}"
                    ) from None
            self._go_on(self._under_way)

    def _copy(self, step: int) -> tuple[Part, ...]:
        """Fill `_copies`, (kinds, elements), with what this rank updates."""
        own = list(owned(self._model))
        elements = sum(len(part.run) for part, _ in own)
        if self._copies.shape[1] != elements:
            self._copies = np.empty((len(self._kinds), elements), np.float32)
        for kind, row in zip(self._kinds, self._copies, strict=True):
            at = 0
            for part, array in own if kind == "weights" else owned(self._model, kind):
                values = row[at : at + len(part.run)]
                values[...] = to_host(array)
                at += len(part.run)
                if kind == "weights" and not np.isfinite(values).all():
                    raise UserError(
                        f"after step {step} {part.name} holds values that are no numbers: "
                        "lower --optim.lr"
                    )
        return tuple(part for part, _ in own)

    def _go_on(self, now: _UnderWay) -> None:
        """From the parts to the manifest, from there to the end; all threads are done."""
        if now.writing is None:
            with self._agreed(now.place):
                if now.publishing is not None:
                    now.publishing.result()
            self._under_way = None
            self._written(now.facts.step)
            return
        with self._agreed(now.place):
            own = PartFile(*now.writing.result(), now.parts)
        now.writing = None
        told = agree(self._comm, json.dumps(own.to_json()))
        if self._comm.rank == 0:
            files = tuple(PartFile.from_json(json.loads(text or "")) for text in told)
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            manifest = Manifest(now.facts, stamp, self._kinds, files)
            now.publishing = Job(partial(commit, now.place, manifest, self._keep))

    @contextlib.contextmanager
    def _agreed(self, place: Path) -> Iterator[None]:
        """Something that all ranks do for a checkpoint, or none: then nothing of it is left."""
        try:
            with together(self._comm):
                try:
                    yield
                except FileNotFoundError as error:
                    raise UserError(
                        f"checkpoint {place} cannot be written: {error}; --run.dir must lie on a "
                        "file system that all nodes share"
                    ) from None
                except OSError as error:
                    raise UserError(f"checkpoint {place} cannot be written: {error}") from None
        except Exception:
            self._under_way = None
            if self._comm.rank == 0:
                shutil.rmtree(partial_of(place), ignore_errors=True)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None or issubclass(kind, StoppedError):
            self.finish()
        elif issubclass(kind, UserError):
            with contextlib.suppress(UserError):
                self.finish()
        elif issubclass(kind, LostRankError) and self._under_way and self._under_way.job:
            # The ranks that are left will write into this folder, without those of then.
            self._under_way.job.wait(self._comm.timeout)
