"""What the types of a configuration allow and no run can do."""

import math
from collections.abc import Mapping
from typing import Any

from hpcpar.errors import UserError

__all__ = ["check_ranges"]

# Smallest and largest value.
_RANGES: dict[str, tuple[float, float]] = {
    "steps": (1, math.inf), "audit": (0, math.inf), "threads": (0, 4096), "data.validation": (0, 1),
    "data.separator": (0, (1 << 31) - 2),
    "batch.size": (1, 1 << 31), "batch.micro": (1, 1 << 31), "batch.leaves": (1, math.inf),
    "model.layers": (1, 10_000), "model.heads": (1, math.inf), "model.width": (1, 1 << 20),
    "model.context": (1, 1 << 24), "model.vocabulary": (0, 1 << 24),
    "optim.weight_decay": (0, math.inf), "optim.clip": (0, math.inf), "optim.warmup": (0, math.inf),
    "parallel.data": (-1, math.inf), "parallel.pipeline": (1, math.inf),
    "parallel.chunks": (2, math.inf), "parallel.context": (1, math.inf),
    "parallel.tensor": (-1, math.inf), "parallel.tiles": (1, 1 << 16),
    "parallel.balance": (0, math.inf),
    "checkpoint.every": (0, math.inf), "checkpoint.keep": (1, math.inf),
    "run.evaluate_every": (0, math.inf), "run.evaluate_samples": (0, math.inf),
    "sync.servers": (0, math.inf), "sync.staleness": (0, math.inf), "sync.every": (1, math.inf),
    "sync.outer_momentum": (0, 1), "optim.spike": (0, math.inf),
    "run.trace": (0, 1000), "run.monitor_every": (0, math.inf),
}  # fmt: skip


def check_ranges(values: Mapping[str, Any]) -> None:
    """Raises `UserError` for a number out of range; `values` by section.key."""
    for key, (least, most) in _RANGES.items():
        if not least <= values[key] <= most:
            limit = f"at least {least:g}" if values[key] < least else f"at most {most:g}"
            raise UserError(f"--{key} is {values[key]}; it must be {limit}")
    for key in ("timeout", "optim.lr", "sync.outer_lr"):
        if not 0 < values[key] < math.inf:
            raise UserError(f"--{key} is {values[key]}; it must be a number above 0")
    if 0 < values["optim.spike"] < 1:
        raise UserError(f"--optim.spike is {values['optim.spike']}; it must be 0, or at least 1")
    for beta in values["optim.betas"]:
        if not 0 <= beta < 1:
            raise UserError(f"--optim.betas holds {beta}; each must be at least 0 and below 1")
