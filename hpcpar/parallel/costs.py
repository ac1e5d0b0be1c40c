"""What the layers of a model cost: measured, for cutting it into stages."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcpar.device import namespace
from hpcpar.nn import Arena, Flat, Model
from hpcpar.nn.losses import SquaredError
from hpcpar.nn.model import Layer, Loss

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["LayerSeconds", "measure_layers"]

ROUNDS = 3


@dataclass(frozen=True)
class LayerSeconds:
    """Seconds of one micro-batch in a layer; the last one's forward is with the loss.

    Attributes: forward; backward; weight, of the second half of backward where it is in two.
    """

    forward: float
    backward: float
    weight: float

    @property
    def total(self) -> float:
        """Of forward and backward."""
        return self.forward + self.backward


def measure_layers(model: Model, micro: int, comm: "Communicator") -> list[LayerSeconds]:
    """Seconds of each layer, for a micro-batch of so many samples.

    Layers of one kind and shape are measured once. All ranks measure at the same time, as in a
    step, and all get rank 0's figures. Collective.
    """
    known: dict[Any, LayerSeconds] = {}
    seconds = []
    shape, dtype = (micro, *model.input_shape), model.input_dtype
    for layer in model.layers:
        key = type(layer), shape, tuple((p.shape, p.tied_to is None) for p in layer.parameters)
        if key not in known:
            loss = model.loss_function if layer is model.layers[-1] else None
            inputs = comm.device.xp.zeros(shape, dtype)
            known[key] = _time(layer, inputs, loss, (micro, *model.input_shape), comm)
        seconds.append(known[key])
        shape, dtype = layer.output_shape(shape), np.dtype(np.float32)
    table = comm.bcast(np.array([[s.forward, s.backward, s.weight] for s in seconds]))
    return [LayerSeconds(*map(float, row)) for row in table]


def _time(
    layer: Layer,
    inputs: Any,
    loss: Loss | None,
    samples: tuple[int, ...],
    comm: "Communicator",
) -> LayerSeconds:
    """`samples` is the shape of what goes into the model."""
    xp, arena = comm.device.xp, Arena(comm.device.xp)
    own = [p.apart(p) if p.tied_to is not None else p for p in layer.parameters]
    flat = Flat(own, xp)
    weights, gradients = flat.empty(), flat.empty_gradients()
    weights.fill(0.01)
    p, g = flat.params_views(weights), flat.gradient_views(gradients)
    best = [float("inf")] * 3
    clock = [0.0] * 4

    def read(place: int) -> None:
        comm.device.synchronize()
        clock[place] = time.perf_counter()

    for halves in (False, True) * ROUNDS:
        x = arena.copy(inputs)
        read(0)
        y, saved = layer.forward(p, x, arena)
        if loss is not None:
            loss.value_and_gradient(y, _targets(loss, y, samples), 0.01, arena)
        read(1)
        if halves:
            dx, kept = layer.backward_input(p, y, saved, arena)
            read(2)
            layer.backward_weight(g, kept, arena)
        else:
            dx = layer.backward(p, g, y, saved, arena)
        read(3)
        best[0] = min(best[0], clock[1] - clock[0])
        best[1 + halves] = min(best[1 + halves], clock[3] - clock[1 + halves])
        if dx is not None:
            arena.give(dx)
    forward, backward, weight = best
    return LayerSeconds(forward, backward, min(weight, backward))


def _targets(loss: Loss, outputs: Any, samples: tuple[int, ...]) -> Any:
    """Some targets for outputs of this shape: of each token, or of each sample."""
    xp = namespace(outputs)
    if isinstance(loss, SquaredError):
        return xp.zeros(outputs.shape, np.float32)
    return xp.zeros(samples if outputs.ndim == 3 else outputs.shape[:-1], np.int64)
