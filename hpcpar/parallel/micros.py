"""The micro-batches that go through a model: which samples each of them has."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpcpar.nn.documents import document_starts, within
from hpcpar.nn.model import Layer

if TYPE_CHECKING:
    from hpcpar.data import Part
    from hpcpar.device import Device

__all__ = ["Micros"]


class Micros:
    """Micro-batches of a part's samples, by their numbers; `samples` are those of each."""

    def __init__(self, part: "Part", samples: Sequence[np.ndarray]) -> None:
        self._part, self._samples = part, samples

    def count(self, micro: int) -> int:
        """How many samples one has."""
        return len(self._samples[micro])

    def batch(self, micro: int) -> tuple[np.ndarray, np.ndarray]:
        """Its inputs and targets, as `Part.batch` gives them."""
        return self._part.batch(self._samples[micro])

    def layers(self, micro: int, layers: Sequence[Layer], device: "Device") -> Sequence[Layer]:
        """Layers as they are for it: within its documents, where its samples have some.

        Every stage looks these up by itself, so that nothing more travels between stages.
        """
        documents = self._part.documents(self._samples[micro])
        if documents is None:
            return layers
        return within(layers, device.asarray(document_starts(documents)))
