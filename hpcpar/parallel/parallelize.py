"""Makes a model parallel: the one place where the kinds of parallelism are put together."""

from dataclasses import replace
from typing import TYPE_CHECKING

from hpcpar.errors import UserError
from hpcpar.nn import Arena, Model
from hpcpar.optim import OptimConfig
from hpcpar.parallel.axes import Axes
from hpcpar.parallel.balance import Work
from hpcpar.parallel.config import BatchConfig, ParallelConfig
from hpcpar.parallel.costs import measure_layers
from hpcpar.parallel.fits import check_fits
from hpcpar.parallel.gradients import Exchanges, GradientSum, RoundSum, RunSum
from hpcpar.parallel.holdings import Holdings
from hpcpar.parallel.layout import Layout
from hpcpar.parallel.partition import check_workers
from hpcpar.parallel.recompute import recomputed
from hpcpar.parallel.shared_buckets import shared_roots
from hpcpar.parallel.stages import cut_stages
from hpcpar.parallel.tensor import tensor_parallel
from hpcpar.parallel.timeline import Timeline
from hpcpar.parallel.training import ParallelModel
from hpcpar.parallel.weights import GatheredWeights, Weights, WholeWeights

if TYPE_CHECKING:
    from hpcpar.comm import Communicator
    from hpcpar.mesh import Mesh

__all__ = ["parallelize"]


def parallelize(
    model: Model,
    mesh: "Mesh",
    parallel: ParallelConfig | None = None,
    batch: BatchConfig | None = None,
    optim: OptimConfig | None = None,
    reproducible: str = "ranks",
    partition: str = "sample",
    recovery: str | None = None,
) -> ParallelModel:
    """A model that all ranks of a mesh train together; its weights are not set yet.

    Args:
        model: written as for one rank; each rank passes the same.
        mesh: with the axes data, pipeline, context and tensor (`ParallelConfig.sizes`).
        reproducible: "ranks" for the same bits on any data x pipeline layout, "layout" for those on
            tensor- and context-parallel ranks too, "off" for any order.
        partition: of the data. By "sample" a step has one global batch; by "batch" one for each
            data-parallel rank; by "feature" ranks are given their own columns of the inputs
            (`ParallelModel.columns`).
        recovery: what happens when a rank is lost: then there are copies of the state, which have
            to fit into memory too.

    Collective. Raises `UserError`, the same on every rank, for what does not go together.
    """
    parallel, batch = parallel or ParallelConfig(), batch or BatchConfig()
    batch.check()
    sizes = {"context": 1, "tensor": 1} | mesh.sizes
    parallel = replace(
        parallel, data=sizes["data"], pipeline=sizes["pipeline"],
        context=sizes["context"], tensor=sizes["tensor"],
    )  # fmt: skip
    layout = Layout(parallel, batch, mesh.comm.size, reproducible, partition)
    axes = Axes(mesh, parallel)
    xp, arena, timeline = mesh.comm.device.xp, Arena(mesh.comm.device.xp), Timeline()
    plain, work, optim = model, _work(model, layout, mesh.comm), optim or OptimConfig()
    stages = work.stages

    # Each idea below takes what the one before has made, and knows nothing of the others.
    model = _shared(model, axes, layout, timeline)
    if parallel.recompute:
        model = recomputed(model)
    check_fits(plain, model, layout, stages, optim, axes, recovery)
    holdings = Holdings(model, stages, axes.stage, axes.pipeline_size, axes.data_size)
    sums = _sums(holdings, axes, layout)
    weights: Weights = (
        GatheredWeights(holdings, axes.data, xp)
        if parallel.zero == 3 and axes.data is not None
        else WholeWeights(holdings, axes.data, xp, sliced=parallel.zero > 0)
    )
    return ParallelModel(model, holdings, axes, layout, work, sums, weights, optim, arena, timeline)


def _sums(holdings: Holdings, axes: Axes, layout: Layout) -> list[GradientSum]:
    """Of the gradient of every bucket."""
    arena, leaves, runs = Arena(axes.comm.device.xp), len(layout.leaves), layout.runs
    if layout.rounds and axes.data is not None:
        exchanges = Exchanges()
        return [
            RoundSum(bucket, axes.data, leaves, arena, exchanges) for bucket in holdings.buckets
        ]
    whole = layout.parallel.zero == 0
    shared = shared_roots(axes.data, holdings.buckets, leaves, runs, arena)
    return [
        RunSum(bucket, axes.data, leaves, arena, runs, whole, roots)
        for bucket, roots in zip(holdings.buckets, shared, strict=True)
    ]


def _shared(model: Model, axes: Axes, layout: Layout, timeline: Timeline) -> Model:
    """The model whose layers and positions the tensor- and context-parallel ranks share."""
    features = layout.partition == "feature"
    if features:
        check_workers(axes.tensor_size, model.input_shape[0])
    try:
        return tensor_parallel(
            model, axes.tensor, layout.tiles, axes.parallel.sequence, axes.context, timeline,
            features,
        )  # fmt: skip
    except ValueError as error:
        sizes = {"context": axes.context_size, "tensor": axes.tensor_size}
        keys = " ".join(f"--parallel.{n} {size}" for n, size in sizes.items() if size > 1)
        raise UserError(f"{keys or '--reproducible layout'}: {error}") from None


def _work(model: Model, layout: Layout, comm: "Communicator") -> Work:
    """The layers of each virtual stage, of even time as measured here."""
    count = layout.stages
    if count == 1:
        return Work([range(len(model.layers))], [1.0] * len(model.layers))
    if count > len(model.layers):
        raise UserError(
            f"{count} stages are more than the model has layers, {len(model.layers)} with its "
            f"first and last: take a smaller --parallel.pipeline"
            + (" or --parallel.chunks" if layout.parallel.stages_a_rank > 1 else "")
        )
    seconds = [cost.total for cost in measure_layers(model, layout.batch.micro, comm)]
    return Work(cut_stages(seconds, count, layout.stage_speeds), seconds)
