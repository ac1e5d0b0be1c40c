"""Collective operations as data: pure functions that yield each rank's steps, and what reads them.

A schedule can be run (`hpcpar.comm`), proved free of deadlock without MPI (`check`), run on arrays
in one process (`simulate`), priced (`hpcpar.schedule.price`) and drawn (`hpcpar.schedule.draw`).
"""

from hpcpar.schedule.check import ScheduleError, check, simulate
from hpcpar.schedule.steps import Combine, Copy, Recv, Send, Span, Step
from hpcpar.schedule.tree import Node, combine_plan, deal, subtrees, tree_allreduce

__all__ = [
    "Combine",
    "Copy",
    "Node",
    "Recv",
    "ScheduleError",
    "Send",
    "Span",
    "Step",
    "check",
    "combine_plan",
    "deal",
    "simulate",
    "subtrees",
    "tree_allreduce",
]
