"""python -m hpcpar replay RUN --step S"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpcpar import checkpoint
from hpcpar.checkpoint import Checkpoint
from hpcpar.comm import Communicator, together
from hpcpar.config import Config, share_config
from hpcpar.data import Dataset, open_data
from hpcpar.entry import note
from hpcpar.errors import UserError
from hpcpar.fingerprint import differences, fingerprint, weights_sha256
from hpcpar.mesh import Mesh
from hpcpar.nn import build_model, fit_data
from hpcpar.opening import open_sampler
from hpcpar.optim import clip_scale, learning_rate
from hpcpar.parallel import ParallelConfig, ParallelModel, parallelize
from hpcpar.parallel.beginning import set_first_weights
from hpcpar.parallel.state import collect, collect_state, shapes
from hpcpar.run.folder import RunFolder, read_config
from hpcpar.threads import limit_threads
from hpcpar.tools.replayed import Curve, compare

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["replay"]

DIFFERENT = 1  # exit status


def replay(run: str, step: int = 0, start: int = -1, *, comm: Communicator) -> None:
    """Train again from a checkpoint of a run to a later step, and compare with what the run has.

    That is the loss and the gradient norm of every step, and the checkpoint or the final hash of
    the last one. What differs is named; the exit status is then 1.

    Args:
        run: The folder of a run.
        step: The step to come to; 0 for that of its newest checkpoint.
        start: The step of the checkpoint to begin with, 0 for the beginning of the run; -1 takes
            the newest before the step.
    """
    folder = RunFolder(Path(run))
    with together(comm):
        read_config(folder.path)
    config = share_config(comm, [str(folder.path / "config.toml")])
    limit_threads(config.threads)
    with Communicator(device=config.device, timeout=config.timeout) as ranks:
        bounds = np.zeros(2, np.int64)
        with together(ranks):
            if ranks.rank == 0:
                bounds[:] = _bounds(config, folder, step, start)
        start, step = (int(n) for n in ranks.bcast(bounds))
        dataset = open_data(config.data, config.model.context, ranks)
        with together(ranks):
            config.model = fit_data(config.model, dataset)
            plain, parallel = build_model(config.model, dataset), _parallel(config)
            sizes = parallel.sizes(ranks.size)
        mesh = Mesh(ranks, **sizes)
        model = parallelize(
            plain, mesh, parallel, config.batch, config.optim, config.reproducible,
            config.data.partition,
        )  # fmt: skip
        dataset = dataset.of_columns(model.columns)
        _begin(config, folder, model, dataset, start)
        print(f"steps {start + 1} to {step} of {run} again, on {_ranks(ranks)}", flush=True)
        curve = _train(config, folder, model, dataset, range(start + 1, step + 1))
        whole, state, different = collect(model), collect_state(model), np.zeros(1, np.int64)
        with together(ranks):
            if whole is not None:
                different[0] = compare(folder, step, curve, whole, state)
                print(f"weights sha256 {weights_sha256(whole)}", flush=True)
        ranks.bcast(different)
        mesh.close()
    if different[0]:
        sys.exit(DIFFERENT)


def _bounds(config: Config, folder: RunFolder, step: int, start: int) -> tuple[int, int]:
    """The steps after which the replay begins and ends."""
    steps = [int(place.name.rpartition("-")[2]) for place in _places(folder)]
    if config.reproducible == "off":
        raise UserError(
            f"{folder.path} was computed with --reproducible off: its bits depend on the ranks, "
            "and cannot be computed again"
        )
    if config.data.partition == "batch":
        raise UserError(
            f"{folder.path} was computed with --data.partition batch: its bits depend on the "
            "data-parallel ranks, and are not computed again"
        )
    step = step or max(steps, default=0)
    if not 1 <= step <= config.steps:
        raise UserError(f"--step is {step}; {folder.path} is a run of steps 1 to {config.steps}")
    if start > 0 and start not in steps:
        raise UserError(f"{folder.path} has no checkpoint of step {start}: it has {_some(steps)}")
    if start < 0:
        start = max((number for number in steps if number < step), default=-1)
    if not 0 <= start < step:
        raise UserError(
            f"{folder.path} has no checkpoint before step {step}: it has {_some(steps)}; "
            "--start 0 begins at the beginning of the run"
        )
    return start, step


def _places(folder: RunFolder) -> list[Path]:
    return checkpoint.list_checkpoints(folder.checkpoints)


def _some(steps: "Sequence[int]") -> str:
    return f"those of steps {', '.join(map(str, steps))}" if steps else "none"


def _ranks(comm: Communicator) -> str:
    return f"{comm.size} rank{'s' * (comm.size > 1)}"


def _parallel(config: Config) -> ParallelConfig:
    """All ranks along the data axis, but for the axes that the run's bits depend on."""
    run, free = config.parallel, config.reproducible == "layout"
    return ParallelConfig(
        tensor=1 if free else run.tensor, context=1 if free else run.context,
        sequence=run.sequence and not free, tiles=run.tiles, zero=run.zero,
        recompute=run.recompute,
    )  # fmt: skip


def _begin(
    config: Config, folder: RunFolder, model: ParallelModel, dataset: Dataset, start: int
) -> None:
    """Weights and optimizer as they were after step `start`."""
    comm, saved = model.comm, None
    if start:
        with together(comm):
            if comm.rank == 0:
                saved = _load(config, folder, model, dataset, start)
        checkpoint.restore(model, saved)
    else:
        set_first_weights(model, config.model.init_from, config.seed)


def _load(
    config: Config, folder: RunFolder, model: ParallelModel, dataset: Dataset, start: int
) -> Checkpoint:
    places = {int(place.name.rpartition("-")[2]): place for place in _places(folder)}
    if start not in places:
        raise UserError(
            f"{folder.path} has no checkpoint of step {start}, to which the run went back: "
            "--start with a later one"
        )
    place = places[start]
    saved = checkpoint.load(place)
    if saved.facts.data != dataset.digest:
        raise UserError(f"the data of the run in {folder.path} has changed since its start")
    checkpoint.check_fit(saved, shapes(model), model.update.optimizer.kinds)
    here = fingerprint(model.comm.device, config.threads, config.precision)
    for difference in differences(dict(saved.facts.fingerprint), here):
        note(f"the bits may differ from the run's: {difference}")
    return saved


def _train(
    config: Config, folder: RunFolder, model: ParallelModel, dataset: Dataset, steps: range
) -> Curve:
    """These steps, as `hpcpar.train` does them; the loss and the gradient norm of each.

    Those that the run passed over have no update here either.
    """
    spikes = _spikes(model.comm, folder)
    sampler = open_sampler(config, dataset)
    curve: Curve = {}
    for step in steps:
        loss = model.loss_and_gradients(dataset.train, sampler.indices(step - 1))
        norm = model.update.norm()
        if step in spikes:
            if spikes[step] >= 0:  # back to that step
                _begin(config, folder, model, dataset, spikes[step])
            model.update.optimizer.steps = step
        else:
            rate = learning_rate(config.optim, step - 1, config.steps)
            model.update.step(rate, clip_scale(norm, config.optim.clip))
        curve[step] = {"loss": loss, "gradient_norm": norm}
    return curve


def _spikes(comm: Communicator, folder: RunFolder) -> dict[int, int]:
    """The steps that the run passed over, with the step that it went back to, -1 for none."""
    rows = np.zeros((0, 2), np.int64)
    if comm.rank == 0:
        found = [
            (row["step"], row.get("rolled_back_to", -1))
            for row in folder.metrics()
            if row.get("skipped")
        ]
        rows = np.array(found, np.int64).reshape(-1, 2)
    return dict(comm.allgather(rows).tolist())
