"""Train a model on many ranks.

    mpirun -n 8 python -m hpcpar.train                                # the defaults
    mpirun -n 8 python -m hpcpar.train run.toml --optim.lr 3e-4       # a file, and a flag that wins
    mpirun -n 5 python -m hpcpar.train --run.dir runs/a --run.resume true   # go on, on other ranks

The last line on standard output is the hash of the weights: the same on any number of ranks.
"""

import hpcpar.threads  # isort: skip  (before NumPy is loaded: it limits the BLAS)

import sys

from hpcpar import checkpoint
from hpcpar.comm import Communicator, agree, compare_ranks, together
from hpcpar.config import Config, share_config
from hpcpar.data import Sampler, open_data
from hpcpar.entry import note, run_ranks
from hpcpar.errors import UserError
from hpcpar.fingerprint import differences, fingerprint, weights_sha256
from hpcpar.mesh import Mesh
from hpcpar.nn import build_model, fit_data
from hpcpar.optim import clip_scale, learning_rate
from hpcpar.parallel import ParallelModel, parallelize
from hpcpar.parallel.beginning import set_first_weights
from hpcpar.parallel.choose import choose
from hpcpar.parallel.state import collect, compare_copies, shapes
from hpcpar.recovery import Audit, Crew, LossGuard, Monitor
from hpcpar.run import Report, RunFolder, Trace, replayable


def train(config: Config, crew: Crew, comm: Communicator) -> None:
    """One training run, from its data to the hash of its weights. Collective.

    Begun again, on the ranks that are left, where one was lost (`Crew`).
    """
    numerics = same_numerics(config, comm)

    # Every rank opens the same data and builds the same model; `parallelize` shares it out.
    dataset = open_data(config.data, config.model.context, comm)
    with together(comm):
        config.model = fit_data(config.model, dataset)
        plain = build_model(config.model, dataset)
    parallel, plan = choose(
        plain, comm, crew.parallel, config.batch, config.optim, config.reproducible
    )
    if plan:
        note(plan, comm)
    with together(comm):
        sizes = parallel.sizes(comm.size)
    mesh = Mesh(comm, **sizes)
    model = parallelize(plain, mesh, parallel, config.batch, config.optim, config.reproducible)
    sampler = Sampler(len(dataset.train), config.batch.size, config.seed)
    audit = Audit(model, config.audit, crew.survives, crew.events)
    for words in [*model.notes, *audit.notes]:
        note(words, comm)
    folder, start = begin(config, crew, model, numerics, dataset.digest)
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

    trace = Trace(model, config.run.trace)
    saving = checkpoint.Writer(
        model, folder.checkpoints if folder else None, config.checkpoint.keep, numerics,
        dataset.digest, replayable(config),
        written=lambda step: crew.events.add("checkpoint", f"that of step {step} is whole", step),
    )  # fmt: skip
    guard = LossGuard(config, crew, model, saving, folder, start)
    monitor = Monitor(model, folder, config.run.monitor_every, crew.events)
    with Report(folder, start, config, dataset, model, crew.rows) as report, saving:
        crew.back_up(model, start)
        if crew.rescued:  # nobody may have come to the end of its last step
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
    report.finish("" if weights is None else weights_sha256(weights), numerics)
    mesh.close()


def same_numerics(config: Config, comm: Communicator) -> dict[str, str]:
    """What the bits depend on; the ranks are told where they differ in it. Collective."""
    hpcpar.threads.limit_threads(config.threads)
    numerics = fingerprint(comm.device, config.threads, config.precision)
    for difference in compare_ranks(comm, numerics):
        if config.reproducible == "layout" or config.audit:
            exact = "--audit" if config.audit else "--reproducible layout"
            raise UserError(f"{difference}: {exact} cannot keep its promise here")
        note(f"{difference}: the bits may depend on who computes what", comm)
    return numerics


def begin(
    config: Config, crew: Crew, model: ParallelModel, numerics: dict[str, str], data: str
) -> tuple[RunFolder | None, int]:
    """The run's folder (on rank 0), and the step after which it begins; sets the weights.

    After the loss of a rank that is the step that the others stand after. A resumed run continues
    from its newest whole checkpoint, on any layout.
    """
    comm, kinds = model.comm, model.update.optimizer.kinds
    folder, saved, rescued = None, None, crew.restore(model)
    with together(comm):
        if comm.rank == 0:
            folder = RunFolder.claim(config.run)
    resume = config.run.resume and not rescued
    if resume:
        saved = checkpoint.find_latest(comm, folder.checkpoints if folder else None, note)
    with together(comm):
        if folder:
            if saved:
                facts = saved.facts
                if facts.data != data:
                    raise UserError(
                        f"the data of the run in {folder.path} has changed since its start"
                    )
                if facts.step > config.steps:
                    raise UserError(
                        f"the run in {folder.path} has {facts.step} steps: raise --steps"
                    )
                checkpoint.check_fit(saved, shapes(model), kinds)
                for difference in differences(dict(facts.fingerprint), numerics):
                    if config.reproducible == "layout":
                        raise UserError(
                            f"the run in {folder.path} was computed elsewhere ({difference}): "
                            "--reproducible layout cannot keep its promise here"
                        )
                    note(f"the bits may differ from an undisturbed run's: {difference}")
            if resume and not saved:
                note(f"there is nothing to resume in {folder.path}: starting at step 0")
            before = saved.facts.step if saved else 0
            folder.start(config, crew.step - 1 if rescued else before)
    start = crew.step if rescued else checkpoint.restore(model, saved)
    if not start and not rescued:
        set_first_weights(model, config.model.init_from, config.seed)
    crew.begin(folder, start)
    config.run.dir = agree(comm, str(folder.path) if folder else None)[0] or ""
    config.run.resume = True  # whoever begins again goes on with it
    return folder, start


def due(step: int, every: int, last: int) -> bool:
    """Whether something that happens every `every` steps, and at the end, happens after `step`."""
    return step == last or (every > 0 and step % every == 0)


def main(arguments: list[str], world: Communicator) -> None:
    config = share_config(world, arguments)
    with Communicator(device=config.device, timeout=config.timeout) as comm:
        crew = Crew(config, comm)
        crew.work(lambda comm: train(config, crew, comm))


if __name__ == "__main__":
    run_ranks(lambda world: main(sys.argv[1:], world))
