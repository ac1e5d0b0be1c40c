"""What a sequence costs, by its length: a s + b s^2, measured.

The products with weights take time in proportion to the tokens; attention in proportion to their
square. With documents in it, a sequence costs what they cost.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hpcpar.nn import gpt
from hpcpar.parallel.costs import measure_layers

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["SequenceCost", "fit_cost", "measure_sequences"]

LENGTHS = (64, 256, 1024)
HEADS, VOCABULARY = 4, 256


class SequenceCost(NamedTuple):
    """Seconds of a document of s tokens, forward and backward: a s + b s^2."""

    a: float
    b: float

    def of(self, lengths: np.ndarray) -> np.ndarray:
        """Of documents of so many tokens, float64, the same shape."""
        lengths = np.asarray(lengths, np.float64)
        return self.a * lengths + self.b * lengths**2


def measure_sequences(width: int, comm: "Communicator") -> SequenceCost:
    """That of a block of a GPT with so many channels, which are a multiple of 4. Collective.

    The same on all ranks. Takes about a second.
    """
    seconds = []
    for length in LENGTHS:
        model = gpt(1, HEADS, width, length, VOCABULARY)
        micro = LENGTHS[-1] // length  # as many tokens each time
        _, block, _ = measure_layers(model, micro, comm)
        seconds.append(block.total / micro)
    return fit_cost(LENGTHS, seconds)


def fit_cost(lengths: Sequence[int], seconds: Sequence[float]) -> SequenceCost:
    """The a and b of at least 0 by least squares of relative errors.

    Each measurement is off by a part of itself, so errors are taken relative to it. Where one of
    the two would be negative it is 0, and the other is fitted alone.
    """
    s, t = np.asarray(lengths, np.float64), np.asarray(seconds, np.float64)
    columns = np.stack([s, s**2], axis=1) / t[:, None]
    (a, b), *_ = np.linalg.lstsq(columns, np.ones(len(s)), rcond=None)
    if a < 0 or b < 0:
        alone = columns.sum(axis=0) / (columns**2).sum(axis=0)
        a, b = (0.0, alone[1]) if a < 0 else (alone[0], 0.0)
    return SequenceCost(float(a), float(b))
