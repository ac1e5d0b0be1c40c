"""What pipeline ranks hold and do, from a model that is really cut, its schedule priced."""

from itertools import accumulate
from pathlib import Path

from held import draw_bars
from step import Bar, draw_timed

from hpcpar.nn import gpt
from hpcpar.nn.model import planned
from hpcpar.parallel import ParallelConfig
from hpcpar.parallel.holdings import Holdings
from hpcpar.parallel.layout import step_actions
from hpcpar.parallel.stages import cut_stages
from hpcpar.schedule import check_pipeline, price_pipeline
from hpcpar.schedule.pipeline_actions import Compute, Forward, SendActivation, SendGradient

__all__ = ["LAYOUTS", "draw_pipeline_axis", "held_layers", "step_bars"]

RANKS, MICROS = 3, 4
TRANSFER = 0.4  # of a message, in forwards of a stage
MODEL = gpt(6, 4, 64, 64, 256)
LAYOUTS = {
    "1f1b": ParallelConfig(pipeline=RANKS),
    "interleaved, 2 chunks": ParallelConfig(pipeline=RANKS, schedule="interleaved"),
}
KINDS = {SendActivation: "activation", SendGradient: "gradient"}


def draw_pipeline_axis(folder: Path) -> None:
    """pipeline_held.svg and pipeline_step.svg."""
    sizes = [sum(p.size for p in layer.parameters) for layer in MODEL.layers]
    ends = list(accumulate(sizes))
    draw_bars(
        {name: [{"layers": [(range(ends[n] - sizes[n], ends[n]), True) for n in own]}
                for own in held_layers(layout)]
         for name, layout in LAYOUTS.items()},
        ends, folder / "pipeline_held.svg",
        words=["in", *map(str, range(len(sizes) - 2)), "out"],
    )  # fmt: skip
    draw_timed(
        {f"rank {rank}": bars for rank, bars in enumerate(step_bars())},
        folder / "pipeline_step.svg", unit="forwards of a stage",
        title=f"1f1b, {RANKS} ranks; numbers are micro-batches",
    )  # fmt: skip


def held_layers(layout: ParallelConfig) -> list[list[int]]:
    """The layers of every rank, cut by operations: a run cuts them by measured seconds."""
    shape, costs = (1, *MODEL.input_shape), []
    for layer in MODEL.layers:
        costs.append(planned(layer).flops(shape))
        shape = layer.output_shape(shape)
    stages = cut_stages(costs, RANKS * layout.stages_a_rank)
    holdings = [Holdings(MODEL, stages, rank, RANKS, 1) for rank in range(RANKS)]
    return [[n for stage in held.stages for n in stages[stage]] for held in holdings]


def step_bars() -> list[tuple[list[Bar], list[Bar]]]:
    """What every rank computes, and what it sends."""
    actions = [step_actions(LAYOUTS["1f1b"], rank, MICROS) for rank in range(RANKS)]
    check_pipeline(actions, MICROS)
    rows: list[tuple[list[Bar], list[Bar]]] = [([], []) for _ in actions]
    for rank, action, start, end in price_pipeline(actions, 1, 2, transfer=TRANSFER).timeline:
        word = str(action.micro)
        if isinstance(action, Compute):
            kind = "forward" if isinstance(action, Forward) else "backward"
            rows[rank][0].append((start, end, kind, word))
        elif isinstance(action, SendActivation | SendGradient):
            rows[rank][1].append((start, end, KINDS[type(action)], word))
    return rows
