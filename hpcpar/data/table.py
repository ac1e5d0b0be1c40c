"""Samples of tables: rows of standardized features, and classes or numbers as targets."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from hpcpar.data.cache import Entry
from hpcpar.data.dataset import Dataset, Part
from hpcpar.data.split import split
from hpcpar.data.table_sources import INPUTS, TARGETS
from hpcpar.errors import UserError

__all__ = ["Rows", "open_table"]

BLOCK = 1 << 16  # rows summed at once


class Rows(Part):
    """Some rows of a table.

    Args:
        x: features of all rows (N, F), float64, as they were measured; mapped into memory.
        y: targets of all rows: int64 (N,) classes or float32 (N, O) numbers.
        numbers: which rows this part has.
        scaling: mean and standard deviation of each feature, float64 (F,).
    """

    targets_per_sample = 1  # one loss a row

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        numbers: np.ndarray,
        scaling: tuple[np.ndarray, np.ndarray],
    ) -> None:
        self._x, self._y, self._numbers = x, y, numbers
        self._mean, self._deviation = scaling

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def classes(self) -> np.ndarray | None:
        return self._y[self._numbers] if self._y.ndim == 1 else None

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = self._numbers[indices]
        x = self._x[rows]
        x -= self._mean
        x /= self._deviation
        return x.astype(np.float32), self._y[rows]


def open_table(entry: Entry, title: str, validation: float, task: str) -> Dataset:
    """The parts of a prepared table; `task` is auto, classification or regression.

    Raises `UserError` for fewer than two rows, and for targets that cannot be classes but should.
    """
    x = np.load(entry.folder / INPUTS, mmap_mode="r")
    targets = np.load(entry.folder / TARGETS)
    if len(x) < 2:
        raise UserError(
            f"{title} has 1 row; it must have one to train on and one to validate, at least"
        )
    kind = _resolve(task, targets, title)
    if kind == "classification":
        classes, y = np.unique(targets[:, 0], return_inverse=True)
        outputs = len(classes)
    else:
        y, outputs = targets.astype(np.float32), targets.shape[1]
    train, held = split(len(x), validation)
    scaling = _scaling(x, train)
    return Dataset(
        kind="table",
        title=title,
        train=Rows(x, y, train, scaling),
        validation=Rows(x, y, held, scaling),
        digest=entry.meta["digest"],
        length=len(x),
        features=x.shape[1],
        outputs=outputs,
        task=kind,
    )


def _resolve(task: str, targets: np.ndarray, title: str) -> Literal["classification", "regression"]:
    """What the targets are. Whole numbers are classes unless the user says otherwise."""
    if task == "regression" or (
        task == "auto" and (targets.dtype != np.int64 or targets.shape[1] > 1)
    ):
        return "regression"
    if targets.shape[1] > 1:
        raise UserError(
            f"{title} has {targets.shape[1]} targets a row; classes are one whole number"
        )
    if (targets != np.rint(targets)).any():
        bad = targets[targets != np.rint(targets)][0]
        raise UserError(
            f"{title} has the target {bad}, which is no class: use --data.task regression"
        )
    return "classification"


def _scaling(x: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the columns of x (N, F) over these rows; 1 for a constant one.

    Blocks of fixed size are added in order: the table need not fit into memory, and the bits depend
    on nothing but the values.
    """

    def blocks() -> Iterator[np.ndarray]:
        return (x[rows[start : start + BLOCK]] for start in range(0, len(rows), BLOCK))

    mean = sum(block.sum(axis=0) for block in blocks()) / len(rows)
    deviation = np.sqrt(sum(((block - mean) ** 2).sum(axis=0) for block in blocks()) / len(rows))
    # Rounding leaves a constant column a deviation of about 1e-16 of its size.
    constant = deviation <= 1e-12 * np.abs(mean)
    return mean, np.where(constant, 1.0, deviation)
