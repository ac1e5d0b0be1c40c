"""Whether a layout fits into memory, asked before anything is allocated."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpcpar.comm.flight.words import size_text
from hpcpar.errors import UserError
from hpcpar.nn import Model
from hpcpar.optim import OptimConfig
from hpcpar.parallel.figures import assumed_figures
from hpcpar.parallel.layout import Layout
from hpcpar.parallel.memory import plan_bytes
from hpcpar.parallel.plan import describe, plan_layouts

if TYPE_CHECKING:
    from hpcpar.parallel.axes import Axes

__all__ = ["check_fits"]


def check_fits(
    plain: Model,
    trained: Model,
    layout: Layout,
    stages: Sequence[range],
    optim: OptimConfig,
    axes: "Axes",
    recovery: str | None,
) -> None:
    """Raises `UserError` on all ranks where the ranks of a node need more memory than it has left.

    Args:
        plain: written as for one rank.
        trained: with its layers as this rank trains them.

    On CPUs, and for layers that tell what they take (`nn.model.Planned`). Collective.
    """
    comm, free = axes.comm, axes.comm.device.free_bytes()
    in_place = axes.data is None or axes.data.nodes == 1
    try:
        needed = plan_bytes(
            trained, layout, stages, optim, axes.stage, axes.data_rank, in_place=in_place,
            recovery=recovery,
        ).total  # fmt: skip
    except ValueError:
        needed = 0
    if free is None or comm.device.kind != "cpu":
        needed, free = 0, 0
    needs = comm.allgather(np.array([float(needed)]))
    nodes = np.array(comm.node_map or [0] * comm.size)
    here = float(needs[nodes == nodes[comm.rank]].sum())
    worst = comm.allgather(np.array([[here - free, here, free / comm.local_size]]))
    missing, total, _ = worst[worst[:, 0].argmax()]
    if missing <= 0:
        return
    # All ranks know the same, so each finds what fits by itself: none waits for another's plan.
    raise UserError(
        f"{describe(layout.parallel)} needs {size_text(int(total))} on a node, of which "
        f"{size_text(int(missing))} are missing: {_instead(plain, layout, optim, worst, recovery)}"
    )


def _instead(
    plain: Model, layout: Layout, optim: OptimConfig, worst: np.ndarray, recovery: str | None
) -> str:
    """What to do."""
    given = {"speeds": layout.parallel.speeds, "tiles": layout.parallel.tiles}
    figures, limit = assumed_figures(plain, layout.batch.micro), float(worst[:, 2].min())
    plans = plan_layouts(
        plain, layout.batch, optim, layout.ranks, figures, given, layout.reproducible, limit=limit,
        recovery=recovery,
    )  # fmt: skip
    for plan in plans:
        if plan.bytes.total <= limit:
            return (
                f"{describe(plan.layout.parallel)} fits, with {size_text(plan.bytes.total)} a rank"
            )
    return "no layout fits; take more ranks, a smaller --batch.micro or a smaller model"
