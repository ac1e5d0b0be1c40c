"""Training with servers: some ranks hold the weights, the others compute with what they pull.

mpirun -n 5 python -m hpcpar.train --sync.servers 1                         # one hash, as without
mpirun -n 6 python -m hpcpar.train --sync.servers 2 --sync.mode ssp --sync.staleness 3
mpirun -n 6 python -m hpcpar.train --sync.servers 2 --sync.mode asp
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

from hpcpar.comm import Communicator, together
from hpcpar.comm.ending import end_process
from hpcpar.comm.flight.words import rank_names
from hpcpar.comm.mailbox import Mailbox
from hpcpar.config import Config
from hpcpar.data import Dataset
from hpcpar.entry import note
from hpcpar.errors import UserError
from hpcpar.fingerprint import weights_sha256
from hpcpar.mesh import Mesh
from hpcpar.nn import Model
from hpcpar.opening import (
    begin,
    check_workers,
    due,
    open_all,
    open_sampler,
    open_writer,
    same_numerics,
)
from hpcpar.parallel import ParallelModel, parallelize
from hpcpar.parallel.layout import Layout
from hpcpar.parallel.shares import lone_model
from hpcpar.parallel.state import collect, compare_copies
from hpcpar.recovery import Crew
from hpcpar.recovery.needs import check_needs
from hpcpar.recovery.sentences import stopped
from hpcpar.recovery.stop import StopSignals
from hpcpar.run import Report
from hpcpar.sync.client import Client
from hpcpar.sync.key_range import KeyRange
from hpcpar.sync.keys import Keys
from hpcpar.sync.roles import Roles
from hpcpar.sync.server import Server
from hpcpar.sync.serving import dismiss, serve
from hpcpar.sync.stopping import Stopping

__all__ = ["train_with_servers"]

ASP = 20  # steps that the fastest worker may be ahead


def train_with_servers(config: Config, comm: Communicator) -> None:
    """One training run, from its data to the hash of its weights. Collective."""
    with together(comm):
        check_workers(config, "--sync.servers")
    check_needs(config.recovery, comm)
    numerics = same_numerics(config, comm)
    dataset, plain = open_all(config, comm)
    roles = Roles(comm.size - config.sync.servers, config.sync.servers)
    mailbox = Mailbox(comm)
    workers = comm.split(0 if comm.rank < roles.workers else None)
    if workers is None:
        lost = hold(config, plain, mailbox, roles, comm)
    else:
        try:
            lost = compute(config, plain, dataset, mailbox, roles, workers, numerics)
        except UserError as error:  # all workers have it
            if workers.rank == 0:
                dismiss(mailbox, roles, str(error))
            raise
    if lost:
        if comm.rank == 0:
            note(f"{rank_names(sorted(lost))} lost: the other servers have what was acknowledged")
        end_process(0)


def hold(
    config: Config, plain: Model, mailbox: Mailbox, roles: Roles, comm: Communicator
) -> set[int]:
    """What a server does until the workers are done; the servers that were lost."""
    model = lone_model(plain, config.parallel.tiles_under(config.reproducible))
    keys = Keys(model, roles.servers, roles.workers)
    layout = Layout(replace(config.parallel, data=roles.workers), config.batch, roles.workers,
                    config.reproducible)  # fmt: skip

    def make(number: int) -> KeyRange:
        return KeyRange(keys, number, config.optim, len(layout.leaves), config.steps, comm.device)

    server = Server(comm.rank, roles, config.sync.mode != "asp", make, mailbox.post)
    serve(server, mailbox, roles, comm.timeout)
    return server.lost


def compute(
    config: Config, plain: Model, dataset: Dataset, mailbox: Mailbox, roles: Roles,
    comm: Communicator, numerics: dict[str, str],
) -> set[int]:  # fmt: skip
    """What a worker does; the servers that were lost.

    Collective over the workers, who meet only where something is due.
    """
    parallel = replace(config.parallel, data=-1, zero=1)
    mesh = Mesh(comm, **parallel.sizes(comm.size))
    model = parallelize(plain, mesh, parallel, config.batch, config.optim, config.reproducible)
    sampler = open_sampler(config, dataset)
    for words in model.notes:
        note(words, comm)
    crew = Crew(replace(config, recovery="none"), comm)
    folder, start = begin(config, crew, model, numerics, dataset)
    looks = dataset.validation.spread(config.run.evaluate_samples)
    client = Client(model, mailbox, roles, config.sync, config.optim)
    client.load(start)
    saving = open_writer(config, crew, model, numerics, dataset.digest, folder)
    # At a step all others have surely ended the one so long before; asp has no such bound, and so
    # the fastest worker waits where it is this far ahead.
    stopping = Stopping(comm, config.sync.staleness + 2 if config.sync.mode != "asp" else ASP)
    with Report(folder, start, config, dataset, model) as report, saving, StopSignals() as signals:
        rows = Rows(report, model, dataset)
        for step in range(start + 1, config.steps + 1):
            rows.tell(client.pull(step))
            client.push(step, dataset.train, sampler.indices(step - 1))
            stops = stopping.after(signals.came) and step < config.steps
            looks_due = due(step, config.run.evaluate_every, config.steps)
            save_due = stops or due(step, config.checkpoint.every, config.steps)
            if looks_due or save_due:
                rows.tell(client.meet(step))
            if looks_due:
                rows.evaluation(model.evaluate(dataset.validation, looks))
            if save_due:
                client.fetch_state(step)
                saving.begin(step, sampler.state(step))
            saving.advance()
            if stops:
                rows.end()
                client.end(stopped=True)
                crew.part(stopped(step, config.run.dir, []))
        rows.end()
        stopping.end()
    compare_copies(model)
    weights = collect(model)
    lost = client.end()
    sync = {
        "mode": config.sync.mode, "servers": roles.servers, "pulls": client.pulls,
        "bytes": client.bytes + mesh.bytes,
    }  # fmt: skip
    report.finish("" if weights is None else weights_sha256(weights), numerics, {"sync": sync})
    mesh.close()
    return lost


class Rows:
    """The lines of a run, on the worker that writes them: of each step when all losses are known.

    That may be some steps later; and the line of a step waits for the next one, for a validation
    loss belongs to it.
    """

    def __init__(self, report: Report, model: ParallelModel, dataset: Dataset) -> None:
        self._report, self._model, self._part = report, model, dataset.train
        self._losses: dict[int, dict[int, float]] = {}
        self._norms: dict[int, list[float]] = {}
        self._waits = False  # whether there is a line that was not written
        self._since = time.monotonic()
        report.begin_step()

    def tell(self, news: Sequence[dict[str, Any]]) -> None:
        """What a server has told of its updates."""
        for told in news:
            step = told["step"]
            losses = self._losses.setdefault(step, {})
            losses.update((int(micro), loss) for micro, loss in told["losses"])
            self._norms.setdefault(step, []).append(told["norm"])
            if len(losses) == self._model.micros_a_step:
                self._line(step, told["rate"])

    def evaluation(self, loss: float) -> None:
        """The validation loss after the step that was told last."""
        if self._waits:
            self._report.evaluation(loss)

    def end(self) -> None:
        """There are no more."""
        if self._waits:
            self._report.log()

    def _line(self, step: int, rate: float) -> None:
        self.end()
        loss = self._model.mean_loss(self._losses.pop(step), self._part)
        now = time.monotonic()
        self._report.late(step, loss, mean(self._norms.pop(step)), rate, now - self._since)
        self._since, self._waits = now, True
