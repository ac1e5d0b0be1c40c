"""What the layers of a model cost: measured, for cutting it into stages."""

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcpar.nn import Arena, Flat, Model
from hpcpar.nn.model import Layer

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["measure_layers"]

ROUNDS = 3


def measure_layers(model: Model, micro: int, comm: "Communicator") -> list[float]:
    """Seconds of forward and backward of each layer, for a micro-batch of so many samples.

    Layers of one kind and shape are measured once. All ranks measure at the same time, as in a
    step, and all get rank 0's figures. Collective.
    """
    known: dict[Any, float] = {}
    seconds = []
    shape, dtype = (micro, *model.input_shape), model.input_dtype
    for layer in model.layers:
        key = type(layer), shape, tuple((p.shape, p.tied_to is None) for p in layer.parameters)
        if key not in known:
            known[key] = _time(layer, comm.device.xp.zeros(shape, dtype), comm)
        seconds.append(known[key])
        shape, dtype = layer.output_shape(shape), np.dtype(np.float32)
    return comm.bcast(np.array(seconds)).tolist()


def _time(layer: Layer, inputs: Any, comm: "Communicator") -> float:
    xp, arena = comm.device.xp, Arena(comm.device.xp)
    own = [p.apart(p) if p.tied_to is not None else p for p in layer.parameters]
    flat = Flat(own, xp)
    weights, gradients = flat.empty(), flat.empty_gradients()
    weights.fill(0.01)
    p, g = flat.params_views(weights), flat.gradient_views(gradients)
    best = float("inf")
    for _ in range(ROUNDS):
        x = arena.copy(inputs)
        comm.device.synchronize()
        start = time.perf_counter()
        y, saved = layer.forward(p, x, arena)
        dy = arena.take(y.shape, y.dtype)
        dy.fill(0.01)
        dx = layer.backward(p, g, dy, saved, arena)
        comm.device.synchronize()
        best = min(best, time.perf_counter() - start)
        arena.give(*(array for array in (dx,) if array is not None))
        if y is not dx and arena.has_lent(y):
            arena.give(y)
    return best
