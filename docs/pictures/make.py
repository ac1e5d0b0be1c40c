"""Makes the pictures of the pages of docs: python docs/pictures/make.py"""

from collections.abc import Callable, Sequence
from pathlib import Path

from context_axis import draw_context_axis
from data_axis import draw_data_axis
from partitions import draw_partitions
from pipeline_axis import draw_pipeline_axis
from skew_data import draw_skew
from tensor_axis import draw_tensor_axis

from hpcpar.linalg.grids import Plan
from hpcpar.linalg.picture import draw_plan
from hpcpar.schedule import Step
from hpcpar.schedule import collectives as schedules
from hpcpar.schedule.draw import draw
from hpcpar.schedule.pipeline import PIPELINES, pipeline_schedule
from hpcpar.schedule.pipeline_draw import draw_pipeline
from hpcpar.schedule.shared import shared_allreduce

HERE = Path(__file__).parent
COUNT = 100_000  # elements of 4 bytes
TWO_NODES = (0, 0, 0, 0, 1, 1, 1, 1)


def picture(
    name: str,
    title: str,
    size: int,
    steps_of: Callable[[int], Sequence[Step]],
    nodes: Sequence[int] | None = None,
) -> None:
    steps = [steps_of(rank) for rank in range(size)]
    draw(steps, HERE / f"{name}.svg", title=title, nodes=nodes)


def allreduce(
    algorithm: str, size: int, segment: int = COUNT, nodes: tuple[int, ...] | None = None
) -> Callable[[int], Sequence[Step]]:
    return lambda rank: schedules.allreduce(
        rank, size, COUNT, algorithm, segment=segment, nodes=nodes
    )


def bcast(
    algorithm: str, size: int, segment: int, nodes: tuple[int, ...] | None = None
) -> Callable[[int], Sequence[Step]]:
    return lambda rank: schedules.bcast(
        rank, size, COUNT, 0, algorithm, segment=segment, nodes=nodes
    )


picture("direct", "allreduce, direct, 4 ranks", 4, allreduce("direct", 4))
picture("halving", "allreduce, halving, 8 ranks", 8, allreduce("halving", 8))
picture("halving5", "allreduce, halving, 5 ranks", 5, allreduce("halving", 5))
picture("ring", "allreduce, ring, 4 ranks", 4, allreduce("ring", 4))
picture("hierarchical", "allreduce, hierarchical, 2 nodes of 4 ranks, 4 blocks", 8,
        allreduce("hierarchical", 8, COUNT // 4, TWO_NODES), TWO_NODES)  # fmt: skip
picture("shared", "allreduce in symmetric arrays, 4 ranks", 4,
        lambda rank: shared_allreduce(rank, 4, COUNT, "x", "out", block=COUNT // 16,
                                      one_shot=False))  # fmt: skip
picture("tree", "bcast, tree, 6 ranks, 4 pieces", 6, bcast("tree", 6, COUNT // 4))
picture("chain", "bcast, chain, 6 ranks, 8 pieces", 6, bcast("chain", 6, COUNT // 8))
picture("bcast_hierarchical", "bcast, hierarchical, 2 nodes of 3 ranks, 4 blocks", 6,
        bcast("hierarchical", 6, COUNT // 4, (0, 0, 0, 1, 1, 1)), (0, 0, 0, 1, 1, 1))  # fmt: skip
for name, grid, title in (
    ("product_data", (4, 1, 1), "data"),
    ("product_model", (1, 1, 4), "model, cut along k"),
    ("product_summa", (2, 2, 1), "summa, C stays"),
    ("product_3d", (2, 2, 2), "3d"),
):
    draw_plan(Plan((96, 96, 96), grid), HERE / f"{name}.svg", title)
for name in PIPELINES:
    draw_pipeline(
        [pipeline_schedule(name, rank, 4, 8) for rank in range(4)],
        HERE / f"pipeline_{name.replace('-', '_')}.svg",
        title=f"{name}, 4 ranks, 8 micro-batches",
    )
for draw_axis in (draw_data_axis, draw_pipeline_axis, draw_tensor_axis, draw_context_axis):
    draw_axis(HERE)
draw_skew(HERE)
draw_partitions(HERE)
