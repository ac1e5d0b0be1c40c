"""A model is a list of layers and a loss; their gradients are written out by hand."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from hpcpar.device import Array
from hpcpar.nn.arena import Arena
from hpcpar.nn.footprint import Footprint, Sizes
from hpcpar.nn.parameters import Parameter

__all__ = ["Layer", "Loss", "Model", "Planned", "PlannedLoss", "Tensors", "planned"]

Tensors = dict[str, Array]  # parameter name -> values, or gradient


class Layer(Protocol):
    """One stage of a model. It holds shapes and names, no values: many calls may be in flight.

    Arrays are passed on like parcels: `forward` owns `x`, and `backward` owns `dy` and `saved`.
    They may be overwritten, kept or given back to the arena: the caller must not use them again.
    """

    parameters: list[Parameter]

    def forward(self, p: Tensors, x: Array, arena: Arena) -> tuple[Array, Any]:
        """(y, saved): the output, and what `backward` needs, in (nested) tuples of arena arrays."""

    def backward(self, p: Tensors, g: Tensors, dy: Array, saved: Any, arena: Arena) -> Array | None:
        """Write (not add) the gradient of each of the layer's parameters into `g`; returns dx.

        The first layer of a model returns None: nobody asks for the gradient of the inputs.
        """

    def backward_input(
        self, p: Tensors, dy: Array, saved: Any, arena: Arena
    ) -> tuple[Array | None, Any]:
        """(dx, kept): the first half of `backward`, and what `backward_weight` needs."""

    def backward_weight(self, g: Tensors, kept: Any, arena: Arena) -> None:
        """The second half: the gradients. Both together have the bits of `backward`."""

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of y for an x of this shape."""


@runtime_checkable
class Planned(Protocol):
    """A layer that tells what it takes without computing anything: for plans."""

    def footprint(self, shape: tuple[int, ...], host: bool = True) -> Footprint:
        """What it takes from the arena for an x of this shape, on a CPU (`host`) or a GPU."""

    def flops(self, shape: tuple[int, ...]) -> float:
        """Additions and multiplications of the matrix products of `forward`; backward has twice."""


def planned(layer: Layer) -> Planned:
    """The layer, of which plans can be made. Raises ValueError for one that does not tell."""
    if not isinstance(layer, Planned):
        raise ValueError(f"there is no plan with a {type(layer).__name__}: it has no footprint")
    return layer


class Loss(Protocol):
    """What is minimized, a sum over the targets of a micro-batch."""

    def value(self, outputs: Array, targets: Array, arena: Arena) -> float:
        """The sum over the targets, in float64. Leaves `outputs` as they are."""

    def value_and_gradient(
        self, outputs: Array, targets: Array, scale: float, arena: Arena
    ) -> tuple[float, Array]:
        """The sum, and the gradient of scale * sum, which takes the place of `outputs`."""


@runtime_checkable
class PlannedLoss(Loss, Protocol):
    """A loss that tells what it takes without computing anything: for plans."""

    def scratch(self, shape: tuple[int, ...]) -> Sizes:
        """What `value_and_gradient` takes from the arena for outputs of this shape."""


class Model:
    """Layers in a row, and a loss at the end.

    `parameters` lists every tensor in order of use. `flops_per_sample` counts the additions and
    multiplications of the matrix products of one sample, forward and backward, without those that a
    causal mask makes needless. `input_shape` and `input_dtype` are those of one sample.

    All methods take the weights `p` and the gradients `g` as dictionaries by name (see
    `parameters.Flat`), and an arena, from which everything else is taken and to which it returns.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        loss: Loss,
        flops_per_sample: float,
        input_shape: tuple[int, ...] = (),
        input_dtype: Any = np.float32,
    ) -> None:
        self.input_shape, self.input_dtype = input_shape, np.dtype(input_dtype)
        self.layers = list(layers)
        self.loss_function = loss
        self.flops_per_sample = flops_per_sample
        self.parameters = [parameter for layer in layers for parameter in layer.parameters]

    def with_layers(
        self,
        layers: Sequence[Layer],
        loss: "Loss | None" = None,
        input_shape: tuple[int, ...] | None = None,
    ) -> "Model":
        """The same model of other layers; with another loss and other inputs if they are given."""
        loss = loss or self.loss_function
        shape = self.input_shape if input_shape is None else input_shape
        return Model(layers, loss, self.flops_per_sample, shape, self.input_dtype)

    def loss_and_gradients(
        self,
        p: Tensors,
        g: Tensors,
        inputs: Array,
        targets: Array,
        scale: float,
        arena: Arena,
        after_layer: Callable[[], object] = bool,
    ) -> float:
        """The micro-batch's loss, summed over its targets in float64; fills `g`.

        `g` becomes (it is not added to) the gradient of scale * loss, where `scale` is one over the
        targets in the *global* batch: gradients of micro-batches then add up to the mean's.
        `after_layer` is called after each layer's backward: a place to move communication on.
        """
        outputs, saved = self.forward(p, inputs, arena)
        loss, gradient = self.loss_function.value_and_gradient(outputs, targets, scale, arena)
        self.backward(p, g, gradient, saved, arena, after_layer)
        return loss

    def loss(self, p: Tensors, inputs: Array, targets: Array, arena: Arena) -> float:
        """The loss alone, summed over the targets in float64."""
        outputs = self.logits(p, inputs, arena)
        loss = self.loss_function.value(outputs, targets, arena)
        arena.give(outputs)
        return loss

    def logits(self, p: Tensors, inputs: Array, arena: Arena) -> Array:
        """The last layer's output, (samples, ..., outputs), for the caller to give to the arena."""
        x = arena.copy(inputs)
        for layer in self.layers:
            x, saved = layer.forward(p, x, arena)
            arena.give(saved)
        return x

    def forward(self, p: Tensors, inputs: Array, arena: Arena) -> tuple[Array, list[Any]]:
        """The last layer's output, and what each layer saved for `backward`."""
        x, saved = arena.copy(inputs), []
        for layer in self.layers:
            x, kept = layer.forward(p, x, arena)
            saved.append(kept)
        return x, saved

    def backward(
        self,
        p: Tensors,
        g: Tensors,
        gradient: Array,
        saved: list[Any],
        arena: Arena,
        after_layer: Callable[[], object] = bool,
    ) -> None:
        """Fill `g`, given the gradient of the last layer's output and what `forward` saved."""
        for layer, kept in zip(reversed(self.layers), reversed(saved), strict=True):
            gradient = layer.backward(p, g, gradient, kept, arena)
            after_layer()
