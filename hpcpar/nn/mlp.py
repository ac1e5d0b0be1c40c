"""A multi-layer perceptron for tables."""

from math import sqrt
from typing import Literal

from hpcpar.nn.dense import Dense
from hpcpar.nn.losses import loss_for
from hpcpar.nn.model import Model

__all__ = ["mlp"]


def mlp(
    features: int,
    outputs: int,
    width: int,
    layers: int,
    task: Literal["classification", "regression"],
) -> Model:
    """`layers` hidden layers with GELU, then a projection: (B, features) -> (B, outputs).

    Parameters are "layers.<i>.weight" (in, out) and "layers.<i>.bias". Weights start with variance
    2 / in (He et al., arXiv:1502.01852), those of the projection with 1 / in.
    Classification minimizes cross-entropy, regression half the squared error.
    """
    widths = [features, *[width] * layers]
    hidden = [
        Dense(
            f"layers.{i}",
            widths[i],
            widths[i + 1],
            std=sqrt(2 / widths[i]),
            activation=True,
            first=i == 0,
        )
        for i in range(layers)
    ]
    last = Dense(
        f"layers.{layers}", widths[-1], outputs, std=sqrt(1 / widths[-1]), first=layers == 0
    )
    weights = sum(layer.weight.size for layer in [*hidden, last])
    needless = widths[0] * [*widths, outputs][1]  # gradient of the inputs
    return Model([*hidden, last], loss_for(task), 6 * weights - 2 * needless, (features,))
