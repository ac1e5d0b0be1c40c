"""What ranks do together as data: pure functions that yield each rank's steps, and what reads them.

A schedule can be run (`hpcpar.comm`, `hpcpar.parallel`), proved free of deadlock without MPI
(`check`, `check_pipeline`), run on arrays in one process (`simulate`), priced
(`hpcpar.schedule.price`, `price_pipeline`) and drawn (`hpcpar.schedule.draw`, `draw_pipeline`).
"""

from hpcpar.schedule.check import ScheduleError, check, simulate
from hpcpar.schedule.pipeline import PIPELINES, pipeline_schedule
from hpcpar.schedule.pipeline_actions import (
    Action,
    Backward,
    BackwardInput,
    BackwardWeight,
    Forward,
    ReceiveActivation,
    ReceiveGradient,
    SendActivation,
    SendGradient,
)
from hpcpar.schedule.pipeline_check import check_pipeline, peak_activations
from hpcpar.schedule.pipeline_draw import draw_pipeline
from hpcpar.schedule.pipeline_price import PipelinePrice, price_pipeline
from hpcpar.schedule.steps import Combine, Copy, Recv, Send, Span, Step
from hpcpar.schedule.tree import Node, combine_plan, deal, subtrees, tree_allreduce

__all__ = [
    "PIPELINES",
    "Action",
    "Backward",
    "BackwardInput",
    "BackwardWeight",
    "Combine",
    "Copy",
    "Forward",
    "Node",
    "PipelinePrice",
    "ReceiveActivation",
    "ReceiveGradient",
    "Recv",
    "ScheduleError",
    "Send",
    "SendActivation",
    "SendGradient",
    "Span",
    "Step",
    "check",
    "check_pipeline",
    "combine_plan",
    "deal",
    "draw_pipeline",
    "peak_activations",
    "pipeline_schedule",
    "price_pipeline",
    "simulate",
    "subtrees",
    "tree_allreduce",
]
