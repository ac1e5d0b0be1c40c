"""The linear model: softmax regression, or least squares."""

from typing import Literal

from hpcpar.nn.dense import Dense
from hpcpar.nn.losses import loss_for
from hpcpar.nn.model import Model

__all__ = ["linear"]


def linear(features: int, outputs: int, task: Literal["classification", "regression"]) -> Model:
    """(B, features) -> (B, outputs) by "linear.weight" (in, out) and "linear.bias", from zeros."""
    layer = Dense("linear", features, outputs, first=True)
    return Model([layer], loss_for(task), 4 * layer.weight.size, (features,))
