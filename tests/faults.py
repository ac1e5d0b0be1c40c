"""Ranks that compute wrongly, for tests: a flipped bit in what a layer has computed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from hpcpar.parallel import ParallelModel
from hpcpar.parallel.leaves import Slot

__all__ = ["flip", "flipped_gradient", "flipped_output"]


def flip(array: np.ndarray, element: int, bit: int) -> None:
    """One bit of one element, counted from the front, and round."""
    words = array.reshape(-1).view(np.uint32)
    words[element % len(words)] ^= np.uint32(1 << bit)


@contextmanager
def flipped_gradient(
    model: ParallelModel,
    layer: int,
    element: int,
    bit: int,
    when: Callable[[Slot], bool] = lambda slot: True,
) -> Iterator[None]:
    """This rank flips a bit in the gradient of a layer, whenever it has computed it."""
    gradients: Any = model._backward  # between the layers' backward and the leaf
    right = gradients.written
    layer %= len(model.holdings.layers)
    while not model.holdings.gradients_of[layer]:  # it has no parameters
        layer = (layer + 1) % len(model.holdings.layers)

    def wrong(slot: Slot, number: int) -> None:
        if number == layer and when(slot):
            arrays = list(gradients._target.values())
            flip(arrays[element % len(arrays)], element, bit)
        right(slot, number)

    gradients.written = wrong
    try:
        yield
    finally:
        del gradients.written


@contextmanager
def flipped_output(model: ParallelModel, element: int, bit: int) -> Iterator[None]:
    """This rank flips a bit in the output of its first layer, always."""
    layer: Any = model.holdings.layers[0]
    right = layer.forward

    def wrong(p: Any, x: np.ndarray, arena: Any) -> tuple[np.ndarray, Any]:
        y, kept = right(p, x, arena)
        flip(y, element, bit)
        return y, kept

    layer.forward = wrong
    try:
        yield
    finally:
        del layer.forward
