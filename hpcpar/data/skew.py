"""How uneven documents and classes are, and what evens them out: figures. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from hpcpar.data.balance import deal

__all__ = ["DocumentSkew", "class_counts", "document_skew", "farthest_share", "wasted_by_padding"]

Cost = Callable[[np.ndarray], np.ndarray]  # of documents of so many tokens


@dataclass(frozen=True)
class DocumentSkew:
    """Documents on some ranks.

    Attributes: lengths, tokens of each; wasted, the part of all positions that is padding where
    each document has a row by itself; in_order and dealt, the cost on each rank where documents are
    taken as they come, about as many for each, and where they are dealt by cost.
    """

    lengths: np.ndarray
    wasted: float
    in_order: np.ndarray
    dealt: np.ndarray

    @property
    def before(self) -> float:
        """The largest cost over the mean, in order."""
        return float(self.in_order.max() / self.in_order.mean())

    @property
    def after(self) -> float:
        """The largest cost over the mean, dealt."""
        return float(self.dealt.max() / self.dealt.mean())


def document_skew(lengths: np.ndarray, ranks: int, context: int, cost: Cost) -> DocumentSkew:
    """Documents of so many tokens, int64 (D,), cut where they are longer than the context."""
    costs = cost(np.full(1, context)) * (lengths // context) + cost(lengths % context)
    in_order = [part.sum() for part in np.array_split(costs, ranks)]
    dealt = [costs[group].sum() for group in deal(costs, ranks)]
    return DocumentSkew(
        lengths, wasted_by_padding(lengths, context), np.array(in_order), np.array(dealt)
    )


def wasted_by_padding(lengths: np.ndarray, context: int) -> float:
    """The part of all positions that is padding, where each row of `context` has one document.

    A longer one has several rows, of which the last is filled up.
    """
    rows = -(-lengths // context)
    return float(1 - lengths.sum() / (rows.sum() * context))


def class_counts(classes: np.ndarray, runs: Iterable[np.ndarray]) -> np.ndarray:
    """How many of each class are in each run of samples, int64 (runs, classes).

    `classes` are whole numbers from 0 (N,), and a run has the numbers of its samples.
    """
    count = int(classes.max()) + 1
    return np.array([np.bincount(classes[run], minlength=count) for run in runs])


def farthest_share(counts: np.ndarray, classes: np.ndarray) -> float:
    """How far a class's share of a run is from its share of all, at most: 0 is even, below 1."""
    shares = np.bincount(classes, minlength=counts.shape[1]) / len(classes)
    return float(np.abs(counts / counts.sum(axis=1, keepdims=True) - shares).max())
