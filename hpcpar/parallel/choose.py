"""The layout of a run: as it was asked for, or the fastest that fits (`--parallel.plan auto`)."""

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np

from hpcpar.comm import agree, together
from hpcpar.comm.flight.words import size_text
from hpcpar.errors import UserError
from hpcpar.nn import Model
from hpcpar.optim import OptimConfig
from hpcpar.parallel.config import BatchConfig, ParallelConfig
from hpcpar.parallel.figures import measure_figures
from hpcpar.parallel.layout import Sharing
from hpcpar.parallel.plan import Plan, describe, plan_layouts
from hpcpar.parallel.shares import lone_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpcpar.comm import Communicator

__all__ = ["choose", "fastest"]


def choose(
    model: Model,
    comm: "Communicator",
    parallel: ParallelConfig,
    batch: BatchConfig,
    optim: OptimConfig,
    reproducible: str = "ranks",
    recovery: str | None = None,
) -> tuple[ParallelConfig, str]:
    """The keys to make a mesh with, and what to tell of them: nothing, unless a plan was made.

    A plan is rank 0's, for all ranks: layers and messages are measured, for a second or so, and of
    the layouts that fit into the memory that is free the fastest is taken. Collective. Raises
    `UserError` on all ranks where none fits.
    """
    if parallel.plan != "auto":
        return parallel, ""
    with together(comm):
        replace(parallel, data=comm.size, pipeline=1, tensor=1).sizes(comm.size)  # the speeds
        batch.check()
    alone = lone_model(model, parallel.tiles_under(reproducible))
    figures = measure_figures(alone, batch.micro, optim, comm)
    free = comm.device.free_bytes()
    mine = np.array([np.inf if free is None else free / comm.local_size])
    limit = float(comm.allreduce(mine, "min")[0])
    text = ""
    with together(comm):
        if comm.rank == 0:
            plans = plan_layouts(
                model, batch, optim, comm.size, figures,
                {"speeds": parallel.speeds, "tiles": parallel.tiles}, reproducible,
                host=comm.device.kind == "cpu", limit=limit, recovery=recovery,
            )  # fmt: skip
            best = fastest(plans, limit)
            words = (
                f"plan: {describe(best.layout.parallel)}: {best.seconds.total:.3g} s a step and "
                f"{size_text(best.bytes.total)} a rank predicted"
            )
            if reproducible == "ranks" and best.layout.sharing != Sharing():
                words += "; no layout of data x pipeline ranks fits, which alone keep the bits"
            text = json.dumps([asdict(best.layout.parallel), words])
    fields, words = json.loads(agree(comm, text)[0] or "")
    return ParallelConfig(**fields | {"speeds": tuple(fields["speeds"])}), words


def fastest(plans: "Sequence[Plan]", limit: float) -> Plan:
    """The first that needs no more than so many bytes a rank.

    Raises `UserError` where none does: how much is missing, and for which layout.
    """
    for plan in plans:
        if plan.bytes.total <= limit:
            return plan
    nearest = min(plans, key=lambda plan: plan.bytes.total)
    needed = nearest.bytes.total
    raise UserError(
        f"no layout fits into {size_text(int(limit))} a rank: {size_text(int(needed - limit))} are "
        f"missing for the nearest, {describe(nearest.layout.parallel)}, which needs "
        f"{size_text(needed)}; take more ranks, a smaller --batch.micro or a smaller model"
    )
