"""What can be configured about the optimizer."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["OptimConfig"]


@dataclass
class OptimConfig:
    """How weights follow from gradients.

    Args:
        name: sgd, momentum or adamw.
        lr: Learning rate, the highest that the schedule reaches.
        betas: adamw's decay of the gradient's mean and of its square's; momentum uses the first.
        weight_decay: Decay of matrices; biases and norms have none.
        clip: Largest norm of the gradient over all weights; 0 for no limit.
        warmup: Steps over which the learning rate rises from 0 to lr.
        schedule: constant, or cosine: down to a tenth of lr at the last step.
        on_spike: What happens after a step whose loss or gradient norm is not finite, or is a spike
            (see spike): stop ends the run; skip leaves out its update; rollback takes the weights
            of the newest checkpoint again, and goes on with the samples of the next step.
        spike: A gradient norm above so many times the median of the last 32 steps' is a spike; 0
            for no such limit.
    """

    name: Literal["sgd", "momentum", "adamw"] = "adamw"
    lr: float = 3e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    clip: float = 1.0
    warmup: int = 50
    schedule: Literal["constant", "cosine"] = "cosine"
    on_spike: Literal["stop", "skip", "rollback"] = "stop"
    spike: float = 0.0
