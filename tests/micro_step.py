"""One micro-batch through a model, alone or shared by ranks, with all that must always hold."""

import numpy as np

from hpcpar.device import Array
from hpcpar.nn import Arena, Flat, Model
from hpcpar.nn.model import Tensors

__all__ = ["Step", "in_halves"]

SCALE = 0.1


class Step:
    """The loss and the gradients of one micro-batch, and what a rank holds.

    Attention's weights are `scores` times what they are drawn as.
    """

    def __init__(
        self, model: Model, inputs: np.ndarray, targets: np.ndarray, scores: float = 1
    ) -> None:
        flat, arena = Flat(model.parameters, np), Arena()
        weights, gradient = flat.empty(), flat.empty_gradients()
        flat.initialize(weights, seed=1)
        weights += np.float32(0.01)  # biases too
        p, self.gradients = flat.params_views(weights), flat.gradient_views(gradient)
        for name in p:
            if "c_attn.weight" in name:
                p[name][...] *= np.float32(scores)
        taken = []
        for _ in range(2):
            gradient.fill(np.nan)  # every element must be written
            self.loss = model.loss_and_gradients(p, self.gradients, inputs, targets, SCALE, arena)
            self.value = model.loss(p, inputs, targets, arena)
            assert arena.lent == 0
            taken.append(arena.bytes)
        assert taken[1:] == taken[:-1]  # a step after the first takes no memory
        halves = np.full_like(gradient, np.nan)
        in_halves(model, p, flat.gradient_views(halves), inputs, targets, arena)
        assert halves.tobytes() == gradient.tobytes()
        self.cuts = {p.name: p.cut for p in model.parameters}


def in_halves(
    model: Model,
    p: Tensors,
    g: Tensors,
    inputs: Array,
    targets: Array,
    arena: Arena,
    scale: float = SCALE,
) -> None:
    """The gradients of all inputs first, then those of the weights."""
    outputs, saved = model.forward(p, inputs, arena)
    _, dy = model.loss_function.value_and_gradient(outputs, targets, scale, arena)
    kept = []
    for layer, one in zip(reversed(model.layers), reversed(saved), strict=True):
        dy, more = layer.backward_input(p, dy, one, arena)
        kept.append((layer, more))
    for layer, more in kept:
        layer.backward_weight(g, more, arena)
    assert arena.lent == 0
