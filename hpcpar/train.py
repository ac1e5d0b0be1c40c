"""Train a model on many ranks.

    mpirun -n 8 python -m hpcpar.train                                # the defaults
    mpirun -n 8 python -m hpcpar.train run.toml --optim.lr 3e-4       # a file, and a flag that wins
    mpirun -n 5 python -m hpcpar.train --run.dir runs/a --run.resume true   # go on, on other ranks

The last line on standard output is the hash of the weights: the same on any number of ranks.
"""

import hpcpar.threads  # isort: skip  (before NumPy is loaded: it limits the BLAS)

import sys

import numpy as np

from hpcpar import checkpoint
from hpcpar.comm import Communicator, compare_ranks, together
from hpcpar.config import Config, share_config
from hpcpar.data import Sampler, open_data
from hpcpar.device import Array
from hpcpar.entry import note, run_ranks
from hpcpar.errors import UserError
from hpcpar.fingerprint import differences, fingerprint, weights_sha256
from hpcpar.nn import Flat, build_model, fit_data, load_weights
from hpcpar.optim import Optimizer, clip_scale, learning_rate, make_optimizer
from hpcpar.parallel import DataParallel, SharedUpdate, evaluate
from hpcpar.run import Report, RunFolder


def train(config: Config, comm: Communicator) -> None:
    """One training run, from its data to the hash of its weights. Collective."""
    hpcpar.threads.limit_threads(config.threads)
    numerics = fingerprint(comm.device, config.threads, config.precision)
    for difference in compare_ranks(comm, numerics):  # what the bits depend on
        note(f"{difference}: the bits may depend on who computes what", comm)

    # Every rank opens the same data, builds the same model and draws the same weights.
    dataset = open_data(config.data, config.model.context, comm)
    with together(comm):
        config.model = fit_data(config.model, dataset)
        model = build_model(config.model, dataset)
        flat = Flat(model.parameters, comm.device.xp)
        weights = flat.empty()
        params = flat.params_views(weights)
        flat.initialize(weights, config.seed)
        if config.model.init_from:
            load_weights(config.model.init_from, params)
        optimizer = make_optimizer(config.optim, flat.parameters, comm.device.xp)
        sampler = Sampler(len(dataset.train), config.batch.size, config.seed)
        parallel = DataParallel(model, flat, params, dataset.train, config.batch, comm,
                                config.reproducible)  # fmt: skip
        update = SharedUpdate(optimizer, weights, params, parallel.gradients, comm)
    if parallel.idle_ranks:
        note(f"{parallel.idle_ranks} ranks have no leaf of the batch to compute", comm)
    tensors = {name: params[name] for name in flat.names}  # a tied one has two names in params
    folder, start = begin(config, comm, tensors, optimizer, numerics, dataset.digest)
    looks = dataset.validation.spread(config.run.evaluate_samples)

    with Report(folder, start, config, dataset, model, comm) as report:
        for step in range(start + 1, config.steps + 1):
            report.begin_step()
            # The gradient, added in one fixed order; then every rank updates a part of the weights.
            loss = parallel.loss_and_gradients(sampler.indices(step - 1))
            norm = update.norm()
            if not np.isfinite([loss, norm]).all():
                raise UserError(f"step {step}: loss {loss}, gradient norm {norm}; lower --optim.lr")
            rate = learning_rate(config.optim, step - 1, config.steps)
            update.step(rate, clip_scale(norm, config.optim.clip))
            report.step(step, loss, norm, rate)

            if due(step, config.run.evaluate_every, config.steps):
                report.evaluation(
                    evaluate(model, params, dataset.validation, looks, config.batch.micro, comm)
                )
            report.log()
            if due(step, config.checkpoint.every, config.steps):
                update.gather_state()
                with together(comm):
                    if folder:
                        state = checkpoint.capture(
                            step, tensors, optimizer, sampler.state(step), numerics, dataset.digest
                        )
                        checkpoint.save(folder.checkpoints, state, config.checkpoint.keep)

    # Every rank holds the whole model, so every rank can prove that it holds the same one.
    sha256 = weights_sha256(tensors)
    for difference in compare_ranks(comm, {"weights": sha256}):
        raise RuntimeError(f"wrong weights: {difference}")
    report.finish(sha256, numerics)


def begin(
    config: Config,
    comm: Communicator,
    tensors: dict[str, Array],
    optimizer: Optimizer,
    numerics: dict[str, str],
    data: str,
) -> tuple[RunFolder | None, int]:
    """The run's folder (on rank 0), and the step after which it begins.

    A resumed run continues from its newest whole checkpoint, on any number of ranks.
    """
    folder, start = None, np.zeros(1, np.int64)
    with together(comm):
        if comm.rank == 0:
            folder = RunFolder.claim(config.run)
            if config.run.resume and (saved := checkpoint.load_latest(folder.checkpoints, note)):
                if saved.data != data:
                    raise UserError(
                        f"the data of the run in {folder.path} has changed since its start"
                    )
                if saved.step > config.steps:
                    raise UserError(
                        f"the run in {folder.path} has {saved.step} steps: raise --steps"
                    )
                checkpoint.restore(saved, tensors, optimizer)
                start[0] = saved.step
                for difference in differences(saved.fingerprint, numerics):
                    note(f"the bits may differ from an undisturbed run's: {difference}")
            if config.run.resume and not start[0]:
                note(f"there is nothing to resume in {folder.path}: starting at step 0")
            folder.start(config, int(start[0]))
    if comm.bcast(start)[0] > 0:
        for group in (tensors, *(group for _, group in sorted(optimizer.state.items()))):
            for _, array in sorted(group.items()):
                comm.bcast(array)
        optimizer.steps = int(start[0])
    return folder, int(start[0])


def due(step: int, every: int, last: int) -> bool:
    """Whether something that happens every `every` steps, and at the end, happens after `step`."""
    return step == last or (every > 0 and step % every == 0)


def main(arguments: list[str], world: Communicator) -> None:
    config = share_config(world, arguments)
    with Communicator(device=config.device, timeout=config.timeout) as comm:
        train(config, comm)


if __name__ == "__main__":
    run_ranks(lambda world: main(sys.argv[1:], world))
