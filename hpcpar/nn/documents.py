"""Sequences of several documents: attention does not cross from one to another.

A position attends to those before it in its own document only, as if each document were a sequence
by itself, but for the embeddings of positions, which are those of the whole sequence. Layers hold
no values, so a layer is made for the documents of one micro-batch (`within`), and goes with it.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from hpcpar.device import Array
from hpcpar.nn.model import Layer, Model

__all__ = ["Attending", "document_starts", "model_within", "within"]


@runtime_checkable
class Attending(Protocol):
    """A layer that looks from one position at others."""

    def within(self, starts: Array) -> Layer:
        """The layer for sequences whose positions look from `starts` on, int32 (B, T)."""


def document_starts(documents: np.ndarray) -> np.ndarray:
    """Where the document of each position begins in its sequence: int32 (B, T).

    `documents` (B, T) has the number of each position's document; those of one are in a row.
    """
    places = np.arange(documents.shape[1], dtype=np.int32)
    begins = np.ones(documents.shape, bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return np.maximum.accumulate(np.where(begins, places, np.int32(0)), axis=1)


def within(layers: Sequence[Layer], starts: Array) -> list[Layer]:
    """Layers for one micro-batch of such sequences."""
    return [layer.within(starts) if isinstance(layer, Attending) else layer for layer in layers]


def model_within(model: Model, starts: Array) -> Model:
    """The model for one micro-batch of such sequences."""
    return model.with_layers(within(model.layers, starts))
