"""What the rest of the house sees of the data."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from hpcpar.data.documents import Documents

__all__ = ["Dataset", "Part"]


class Part(ABC):
    """Samples that can be looked up by number: those for training, or those for validation."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @property
    @abstractmethod
    def targets_per_sample(self) -> int:
        """How many terms one sample adds to a sum of losses."""

    @abstractmethod
    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of these samples, in fresh arrays on the host.

        Text: int32 (B, T) and int32 (B, T). Tables: float32 (B, F), and int64 (B,) for classes or
        float32 (B, O) for numbers.
        """

    def documents(self, indices: np.ndarray) -> np.ndarray | None:
        """The number of each input position's document: int32 (B, T), in which it does not fall.

        None where samples are no sequences of documents: then attention sees all of a sample.
        """
        return None

    @property
    def classes(self) -> np.ndarray | None:
        """The class of each sample, int64 (N,), where targets are classes."""
        return None

    def of_columns(self, columns: range) -> "Part":
        """The same samples of a table with some of their features only, none else of which is read.

        Raises ValueError for samples that have no features.
        """
        raise ValueError(f"samples of {type(self).__name__} have no columns")

    def spread(self, count: int) -> np.ndarray:
        """The numbers of `count` samples, evenly spread over the part; of all for 0 or too many."""
        samples = len(self)
        if not 0 < count < samples:
            return np.arange(samples)
        return np.arange(count) * samples // count


@dataclass(frozen=True)
class Dataset:
    """Data that is ready to be trained on. Fields that do not go with its kind are 0, "" or None.

    Every rank holds one, over the same content: `digest` says so.
    """

    kind: Literal["bytes", "tokens", "table"]
    title: str  # where it came from, for people
    train: Part
    validation: Part
    digest: str  # sha256 of the content, hexadecimal
    length: int  # bytes, tokens or rows
    vocabulary: int = 0  # text: tokens are below it
    documents: Documents | None = None  # text: where attention stays within them
    features: int = 0  # table: columns of the inputs
    outputs: int = 0  # table: classes, or columns of the targets
    task: Literal["", "classification", "regression"] = ""  # table

    def of_columns(self, columns: range | None) -> "Dataset":
        """The same data on a rank that reads some columns of a table only; None are all."""
        if columns is None:
            return self
        train, validation = (part.of_columns(columns) for part in (self.train, self.validation))
        return replace(self, train=train, validation=validation)

    def describe(self) -> str:
        """One line for people."""
        unit: str = "rows" if self.kind == "table" else self.kind
        sizes = f"{len(self.train):,} samples to train on and {len(self.validation):,} to validate"
        if self.kind == "table":
            wanted = (
                "classes" if self.task == "classification" else f"output{'s' * (self.outputs > 1)}"
            )
            sizes += f", {self.features} features, {self.outputs} {wanted}"
        if self.documents is not None:
            count = len(self.documents)
            unit += f" in {count:,} document{'s' * (count > 1)}"
        return f"{self.length:,} {unit} of {self.title} ({sizes})"
