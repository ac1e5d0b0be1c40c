"""Models and samples that are small enough to be trained in a test."""

import numpy as np

from hpcpar.data import Part
from hpcpar.nn import Model, gpt, linear, mlp

__all__ = ["Rows", "Tokens", "small_model"]


class Tokens(Part):
    """Random tokens, the same for a sample on every rank."""

    targets_per_sample = 8

    def __len__(self) -> int:
        return 64

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.random.default_rng(5).integers(0, 31, (64, 9), np.int32)[indices]
        return np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:])


class Rows(Part):
    """Random rows of a table, and their classes."""

    targets_per_sample = 1

    def __len__(self) -> int:
        return 64

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(6)
        rows = random.standard_normal((64, 10)).astype(np.float32)
        return rows[indices], random.integers(0, 3, 64)[indices]


def small_model(kind: str, layers: int = 6) -> tuple[Model, Tokens | Rows]:
    """A gpt, mlp or linear, and samples for it."""
    if kind == "gpt":
        return gpt(layers=layers, heads=4, width=16, context=8, vocabulary=31), Tokens()
    if kind == "mlp":
        return mlp(10, 3, 12, layers, "classification"), Rows()
    return linear(10, 3, "classification"), Rows()
