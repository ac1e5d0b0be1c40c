"""Train a model on many ranks.

    mpirun -n 8 python -m hpcpar.train                                # the defaults
    mpirun -n 8 python -m hpcpar.train run.toml --optim.lr 3e-4       # a file, and a flag that wins
    mpirun -n 5 python -m hpcpar.train --run.dir runs/a --run.resume true   # go on, on other ranks

The last line on standard output is the hash of the weights: the same on any number of ranks.
"""

import sys

from hpcpar.comm import Communicator, together
from hpcpar.config import Config, share_config
from hpcpar.entry import note, run_ranks
from hpcpar.fingerprint import weights_sha256
from hpcpar.mesh import Mesh
from hpcpar.opening import begin, due, open_all, open_sampler, open_writer, same_numerics
from hpcpar.optim import clip_scale, learning_rate
from hpcpar.parallel import parallelize
from hpcpar.parallel.choose import choose
from hpcpar.parallel.state import collect, compare_copies
from hpcpar.recovery import Audit, Balancer, Crew, LossGuard, Monitor
from hpcpar.run import Report, Trace
from hpcpar.train_local import train_locally
from hpcpar.train_servers import train_with_servers


def train(config: Config, crew: Crew, comm: Communicator) -> None:
    """One training run, from its data to the hash of its weights. Collective.

    Begun again, on the ranks that are left, where one was lost (`Crew`).
    """
    numerics = same_numerics(config, comm)

    # Every rank opens the same data and builds the same model; `parallelize` shares it out.
    dataset, plain = open_all(config, comm)
    parallel, plan = choose(
        plain, comm, crew.parallel, config.batch, config.optim, config.reproducible,
        config.recovery,
    )  # fmt: skip
    if plan:
        note(plan, comm)
    mesh = Mesh(comm, **parallel.sizes(comm.size))
    model = parallelize(
        plain, mesh, parallel, config.batch, config.optim, config.reproducible,
        config.data.partition, config.recovery,
    )  # fmt: skip
    dataset = dataset.of_columns(model.columns)  # by feature: a rank reads no others
    audit = Audit(model, config.audit, crew.survives, crew.events)
    for words in [*model.notes, *audit.notes]:
        note(words, comm)
    folder, start = begin(config, crew, model, numerics, dataset)
    sampler = open_sampler(config, dataset, crew.course)
    looks = dataset.validation.spread(config.run.evaluate_samples)

    def end_step(step: int) -> None:
        if due(step, config.run.evaluate_every, config.steps):
            report.evaluation(model.evaluate(dataset.validation, looks))
        report.log()
        monitor.step(step, report.spent)
        if crew.stopping or due(step, config.checkpoint.every, config.steps):
            saving.begin(step, sampler.state(step))
        saving.advance()  # each rank's part is written while the next steps are computed
        crew.stop(step)
        if step < config.steps:
            balancer.step(step, report.spent)

    trace = Trace(model, config.run.trace)
    saving = open_writer(config, crew, model, numerics, dataset.digest, folder)
    guard = LossGuard(config, crew, model, saving, folder, start)
    balancer = Balancer(model, mesh, parallel.balance, crew, saving)
    monitor = Monitor(model, folder, config.run.monitor_every, crew.events)
    with Report(folder, start, config, dataset, model, crew.rows) as report, saving:
        crew.back_up(model, start)
        if crew.unwritten:
            end_step(start)
        for step in range(start + 1, config.steps + 1):
            trace.before_step(first=step == start + 1)
            report.begin_step()
            # The gradient, added in one fixed order; then every rank updates its own part.
            loss = audit.loss_and_gradients(step, dataset.train, sampler.indices(step - 1))
            norm = model.update.norm()
            marks = guard.judge(step, loss, norm)
            rate = learning_rate(config.optim, step - 1, config.steps)
            report.step(step, loss, norm, rate, marks)
            guard.update(step, rate, clip_scale(norm, config.optim.clip))
            report.updated()
            end_step(step)

    trace.write(folder.path if folder else None)
    compare_copies(model)
    weights = collect(model)
    sync = {"mode": "bsp", "bytes": mesh.bytes}
    report.finish("" if weights is None else weights_sha256(weights), numerics, {"sync": sync})
    mesh.close()


def main(arguments: list[str], world: Communicator) -> None:
    config = share_config(world, arguments)
    with Communicator(device=config.device, timeout=config.timeout) as comm:
        with together(comm):
            config.sync.check(comm.size)
        if config.sync.servers or config.sync.mode == "local":
            (train_with_servers if config.sync.servers else train_locally)(config, comm)
            return
        crew = Crew(config, comm)
        crew.work(lambda comm: train(config, crew, comm))


if __name__ == "__main__":
    run_ranks(lambda world: main(sys.argv[1:], world))
