"""The learning rate as a function of the step."""

from math import cos, pi

from hpcpar.optim.config import OptimConfig

__all__ = ["FLOOR", "learning_rate"]

FLOOR = 0.1  # of lr, where the cosine ends


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """The rate of step `step` (from 0) in a run of `steps`.

    It rises in a line to lr over the first `warmup` steps, the first of which is not zero. Then it
    stays there (constant), or falls along half a cosine (Loshchilov and Hutter, arXiv:1608.03983)
    to a tenth of lr at the last step.
    """
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    way = (step - config.warmup) / max(1, steps - 1 - config.warmup)
    height = 0.5 * (1 + cos(pi * min(1.0, way)))
    return config.lr * (FLOOR + (1 - FLOOR) * height)
