"""What every training run begins with: data, model, folder, and the state that it goes on from."""

import numpy as np

import hpcpar.threads
from hpcpar import checkpoint
from hpcpar.comm import Communicator, agree, compare_ranks, together
from hpcpar.config import Config
from hpcpar.data import Course, Dataset, Sampler, make_sampler, open_data
from hpcpar.entry import note
from hpcpar.errors import UserError
from hpcpar.fingerprint import differences, fingerprint
from hpcpar.nn import Model, build_model, fit_data
from hpcpar.parallel import ParallelModel
from hpcpar.parallel.beginning import set_first_weights
from hpcpar.parallel.partition import check_batches
from hpcpar.parallel.state import shapes
from hpcpar.recovery import Crew
from hpcpar.run import RunFolder, replayable

__all__ = [
    "begin",
    "check_workers",
    "due",
    "open_all",
    "open_sampler",
    "open_writer",
    "same_numerics",
]


def open_all(config: Config, comm: Communicator) -> tuple[Dataset, Model]:
    """The same data on every rank, and the model, written as for one rank. Collective."""
    dataset = open_data(config.data, config.model.context, comm)
    with together(comm):
        config.model = fit_data(config.model, dataset)
        plain = build_model(config.model, dataset)
    return dataset, plain


def open_sampler(config: Config, dataset: Dataset, course: Course | None = None) -> Sampler:
    """Which samples each step has; a batch each, unless a course says otherwise."""
    batch = config.batch
    return make_sampler(
        dataset.train, config.data, batch.size, batch.micro, batch.leaves, config.seed, course
    )


def check_workers(config: Config, mode: str) -> None:
    """Raises `UserError` for what takes ranks that are all at the same step.

    Args:
        mode: the flag that has workers go their own way.
    """
    parallel = config.parallel
    for name in ("pipeline", "tensor", "context"):
        if getattr(parallel, name) != 1:
            raise UserError(
                f"{mode} goes with data-parallel workers only: leave --parallel.{name} out"
            )
    if parallel.plan or parallel.zero > 1:
        raise UserError(f"{mode} goes with --parallel.zero 0 or 1, and without a plan")
    if config.audit:
        raise UserError(
            f"--audit compares what ranks computed at the same step: leave it out with {mode}"
        )
    if config.optim.on_spike != "stop" or config.optim.spike:
        raise UserError(f"{mode} goes with --optim.on_spike stop, and without --optim.spike")
    if config.run.trace or parallel.balance:
        raise UserError(f"{mode} goes without --run.trace and --parallel.balance")


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
    config: Config,
    crew: Crew,
    model: ParallelModel,
    numerics: dict[str, str],
    dataset: Dataset,
) -> tuple[RunFolder | None, int]:
    """The run's folder (on rank 0), and the step after which it begins; sets weights and course.

    After the loss of a rank that is the step that the others stand after. A resumed run continues
    from its newest whole checkpoint, on any layout.
    """
    comm, kinds, samples = model.comm, model.update.optimizer.kinds, len(dataset.train)
    check_batches(model.dealt.batches, config.batch.size, samples)
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
                if facts.data != dataset.digest:
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
            folder.start(config, crew.step - crew.unwritten if rescued else before)
    start = crew.step if rescued else checkpoint.restore(model, saved)
    if not start and not rescued:
        set_first_weights(model, config.model.init_from, config.seed)
    epoch, position = comm.bcast(np.array(saved.facts.sampler if saved else (0, 0))).tolist()
    course = Course.resumed(start, (epoch, position), samples, config.batch.size)
    used = crew.course.before(start) if rescued else course.used
    crew.course = Course(start, used, model.dealt.batches)
    crew.begin(folder, start)
    config.run.dir = agree(comm, str(folder.path) if folder else None)[0] or ""
    config.run.resume = True  # whoever begins again goes on with it
    return folder, start


def open_writer(
    config: Config, crew: Crew, model: ParallelModel, numerics: dict[str, str], data: str,
    folder: RunFolder | None,
) -> checkpoint.Writer:  # fmt: skip
    """What writes the run's checkpoints."""
    return checkpoint.Writer(
        model, folder.checkpoints if folder else None, config.checkpoint.keep, numerics, data,
        replayable(config),
        written=lambda step: crew.events.add("checkpoint", f"that of step {step} is whole", step),
    )  # fmt: skip


def due(step: int, every: int, last: int) -> bool:
    """Whether something that happens every `every` steps, and at the end, happens after `step`."""
    return step == last or (every > 0 and step % every == 0)
