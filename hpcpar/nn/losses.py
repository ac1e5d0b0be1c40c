"""What is minimized: cross-entropy for classes and tokens, half the squared error for numbers."""

from math import prod

import numpy as np

from hpcpar.device import Array, namespace
from hpcpar.nn.arena import Arena
from hpcpar.nn.footprint import Sizes, floats
from hpcpar.nn.model import Loss
from hpcpar.nn.ops import cross_entropy

__all__ = ["CrossEntropy", "SquaredError", "loss_for"]


class CrossEntropy:
    """Cross-entropy in nats: outputs are logits (..., classes), targets whole numbers (...)."""

    def value(self, outputs: Array, targets: Array, arena: Arena) -> float:
        logits = outputs.reshape(-1, outputs.shape[-1])
        return cross_entropy.forward(logits, targets.reshape(-1), arena)

    def value_and_gradient(
        self, outputs: Array, targets: Array, scale: float, arena: Arena
    ) -> tuple[float, Array]:
        logits = outputs.reshape(-1, outputs.shape[-1])
        loss = cross_entropy.forward_backward(logits, targets.reshape(-1), scale, arena)
        return loss, outputs

    def scratch(self, shape: tuple[int, ...]) -> Sizes:
        """What `value_and_gradient` takes from the arena for outputs of this shape."""
        rows = prod(shape[:-1])
        return floats((2 * rows, 1), (rows, 1))  # losses in float64, sums


class SquaredError:
    """0.5 * (output - target)^2, summed over all outputs; both (B, O)."""

    def value(self, outputs: Array, targets: Array, arena: Arena) -> float:
        difference = arena.copy(outputs)
        loss, _ = self.value_and_gradient(difference, targets, 1, arena)
        arena.give(difference)
        return loss

    def value_and_gradient(
        self, outputs: Array, targets: Array, scale: float, arena: Arena
    ) -> tuple[float, Array]:
        if outputs.shape != targets.shape:
            raise ValueError(f"targets are {targets.shape}, the model's outputs {outputs.shape}")
        xp = namespace(outputs)
        squares = arena.take(outputs.shape, np.float64)
        xp.subtract(outputs, targets, out=outputs, casting="same_kind")
        xp.multiply(outputs, outputs, out=squares, dtype=np.float64)
        loss = 0.5 * float(squares.sum())
        xp.multiply(outputs, scale, out=outputs)
        arena.give(squares)
        return loss, outputs

    def scratch(self, shape: tuple[int, ...]) -> Sizes:
        """What `value_and_gradient` takes from the arena for outputs of this shape."""
        return floats((2 * prod(shape), 1))


def loss_for(task: str) -> Loss:
    """The loss of "classification" or "regression"; raises `ValueError` for another task."""
    if task not in ("classification", "regression"):
        raise ValueError(f"task is {task!r}; it must be classification or regression")
    return CrossEntropy() if task == "classification" else SquaredError()
