"""Training by workers that meet rarely: between two meetings nothing is sent.

mpirun -n 4 python -m hpcpar.train --sync.mode local --sync.every 50
"""

import json
import time
from dataclasses import replace
from statistics import mean
from typing import Any

import numpy as np

from hpcpar.comm import Communicator, agree, together
from hpcpar.config import Config
from hpcpar.data import Dataset
from hpcpar.entry import note
from hpcpar.errors import UserError
from hpcpar.fingerprint import weights_sha256
from hpcpar.mesh import Mesh
from hpcpar.opening import (
    begin,
    check_workers,
    due,
    open_all,
    open_sampler,
    open_writer,
    same_numerics,
)
from hpcpar.optim import learning_rate
from hpcpar.parallel import ParallelModel, parallelize
from hpcpar.parallel.state import collect, compare_copies
from hpcpar.recovery import Crew
from hpcpar.recovery.needs import check_needs
from hpcpar.recovery.sentences import stopped
from hpcpar.recovery.spikes import why_spike
from hpcpar.recovery.stop import StopSignals
from hpcpar.run import Report
from hpcpar.sync.local import LocalTraining

__all__ = ["train_locally"]


def train_locally(config: Config, comm: Communicator) -> None:
    """One training run, from its data to the hash of its weights. Collective."""
    with together(comm):
        check_workers(config, "--sync.mode local")
        if config.recovery == "shrink":
            raise UserError(
                "--sync.mode local cannot go on without a rank: leave --recovery out, or take "
                "relaunch"
            )
    check_needs(config.recovery, comm)
    numerics = same_numerics(config, comm)
    dataset, plain = open_all(config, comm)
    parallel = replace(config.parallel, data=-1, zero=1)
    mesh = Mesh(comm, **parallel.sizes(comm.size))
    model = parallelize(plain, mesh, parallel, config.batch, config.optim, config.reproducible)
    if model.idle_ranks:
        raise UserError(
            f"{comm.size} workers are more than a batch has leaves: take at most "
            f"{comm.size - model.idle_ranks} ranks, or more --batch.leaves"
        )
    sampler = open_sampler(config, dataset)
    for words in model.notes:
        note(words, comm)
    local = LocalTraining(model, config.optim, config.sync)
    crew = Crew(replace(config, recovery="none"), comm)
    folder, start = begin(config, crew, model, numerics, dataset)
    local.begin()
    looks = dataset.validation.spread(config.run.evaluate_samples)
    saving = open_writer(config, crew, model, numerics, dataset.digest, folder)
    meetings, met = 0, start
    with Report(folder, start, config, dataset, model) as report, saving, StopSignals() as signals:
        steps = Steps(config, report, model, dataset)
        for step in range(start + 1, config.steps + 1):
            rate = learning_rate(config.optim, step - 1, config.steps)
            steps.add(step, *local.step(dataset.train, sampler.indices(step - 1), rate), rate)
            if step % config.sync.every and step != config.steps:
                continue
            local.meet()
            # What is due since the meeting before is done now: only now all have the same weights.
            steps.tell()
            if was_due(met, step, config.run.evaluate_every, config.steps):
                report.evaluation(model.evaluate(dataset.validation, looks))
            report.log()
            asked = comm.allreduce(np.array([float(signals.came)]), op="max")
            stops = bool(asked[0]) and step < config.steps
            if stops or was_due(met, step, config.checkpoint.every, config.steps):
                local.hold(step, step == config.steps)
                saving.begin(step, sampler.state(step))
            saving.advance()
            if stops:
                crew.part(stopped(step, config.run.dir, []))
            meetings, met = meetings + 1, step
    compare_copies(model)
    weights = collect(model)
    sync = {"mode": "local", "every": config.sync.every, "meetings": meetings, "bytes": mesh.bytes}
    report.finish("" if weights is None else weights_sha256(weights), numerics, {"sync": sync})
    mesh.close()


def was_due(before: int, step: int, every: int, last: int) -> bool:
    """Whether something that happens every `every` steps was due after any step since `before`."""
    return any(due(number, every, last) for number in range(before + 1, step + 1))


class Steps:
    """What each worker has done since the last meeting, for the lines of the run."""

    def __init__(
        self, config: Config, report: Report, model: ParallelModel, dataset: Dataset
    ) -> None:
        self._config, self._report, self._model = config, report, model
        self._part, self._done = dataset.train, list[Any]()
        self._since = time.monotonic()
        report.begin_step()

    def add(self, step: int, losses: dict[int, float], norm: float, rate: float) -> None:
        """A step of this worker."""
        now = time.monotonic()
        self._done.append((step, sorted(losses.items()), norm, rate, now - self._since))
        self._since = now

    def tell(self) -> None:
        """All steps up to this meeting; the line of the last one is not written yet. Collective.

        Raises `UserError` on all ranks for numbers with which it makes no sense to go on.
        """
        texts = agree(self._model.comm, json.dumps(self._done))
        last, meeting = self._done[-1][0], time.monotonic() - self._since
        for of_step in zip(*(json.loads(text or "[]") for text in texts), strict=True):
            losses = {micro: loss for _, pairs, *_ in of_step for micro, loss in pairs}
            (step, _, _, rate, seconds), norms = of_step[0], [norm for _, _, norm, *_ in of_step]
            loss = self._model.mean_loss(losses, self._part)
            if why := why_spike((), loss, mean(norms), 0):
                raise UserError(f"step {step}: {why}; lower --optim.lr")
            seconds += meeting * (step == last)
            self._report.late(step, loss, mean(norms), rate, seconds)
            if step != last:
                self._report.log()
        self._done, self._since = [], time.monotonic()
