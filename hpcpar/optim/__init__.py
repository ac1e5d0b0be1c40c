"""Optimizers, elementwise on the weights; learning-rate schedules; the norm of the gradient."""

from hpcpar.optim.config import OptimConfig
from hpcpar.optim.norm import (
    NORM_BLOCK,
    clip_scale,
    exact_parts,
    norm_of,
    square_sums,
)
from hpcpar.optim.optimizers import (
    SGD,
    AdamW,
    Momentum,
    Optimizer,
    make_optimizer,
    optimizer_bytes,
    state_arrays,
)
from hpcpar.optim.schedule import learning_rate

__all__ = [
    "NORM_BLOCK",
    "SGD",
    "AdamW",
    "Momentum",
    "OptimConfig",
    "Optimizer",
    "clip_scale",
    "exact_parts",
    "learning_rate",
    "make_optimizer",
    "norm_of",
    "optimizer_bytes",
    "square_sums",
    "state_arrays",
]
