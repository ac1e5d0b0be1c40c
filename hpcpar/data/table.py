"""Samples of tables: rows of standardized features, and classes or numbers as targets."""

from collections.abc import Iterator
from functools import partial
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
        scaling: of the features.
        columns: the features that are read; None are all.
    """

    targets_per_sample = 1  # one loss a row

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        numbers: np.ndarray,
        scaling: "Scaling",
        columns: range | None = None,
    ) -> None:
        self._x, self._y, self._numbers, self._scaling = x, y, numbers, scaling
        self._columns = range(x.shape[1]) if columns is None else columns

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def classes(self) -> np.ndarray | None:
        return self._y[self._numbers] if self._y.ndim == 1 else None

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, (mean, deviation) = self._numbers[indices], self._scaling.of(self._columns)
        x = self._x[:, self._columns.start : self._columns.stop][rows]
        x -= mean
        x /= deviation
        return x.astype(np.float32), self._y[rows]

    def of_columns(self, columns: range) -> "Rows":
        self._scaling.of(columns)  # now, on all ranks at a time: the first batch is not to wait
        return Rows(self._x, self._y, self._numbers, self._scaling, columns)


class Scaling:
    """What features are standardized by: mean and standard deviation over rows of x (N, F)."""

    def __init__(self, x: np.ndarray, rows: np.ndarray) -> None:
        self._x, self._rows = x, rows
        self._found: dict[range, tuple[np.ndarray, np.ndarray]] = {}

    def of(self, columns: range) -> tuple[np.ndarray, np.ndarray]:
        """Of these features, both float64 (columns,); they are read when first asked for.

        The deviation of a constant column is 1. Blocks of fixed size are added in order: the table
        need not fit into memory, and the bits depend on nothing but the values of a column.
        """
        if columns not in self._found:
            blocks, count = partial(self._blocks, columns), len(self._rows)
            mean = sum(block.sum(axis=0) for block in blocks()) / count
            squares = sum(((block - mean) ** 2).sum(axis=0) for block in blocks())
            deviation = np.sqrt(squares / count)
            # Rounding leaves a constant column a deviation of about 1e-16 of its size.
            deviation = np.where(deviation <= 1e-12 * np.abs(mean), 1.0, deviation)
            self._found[columns] = mean[: len(columns)], deviation[: len(columns)]
        return self._found[columns]

    def _blocks(self, columns: range) -> Iterator[np.ndarray]:
        own, alone = self._x[:, columns.start : columns.stop], len(columns) == 1 < self._x.shape[1]
        for start in range(0, len(self._rows), BLOCK):
            block = own[self._rows[start : start + BLOCK]]
            # NumPy adds up a single column in pairs of rows, and several row after row.
            yield np.repeat(block, 2, axis=1) if alone else block


def open_table(
    entry: Entry, title: str, validation: float, task: str, whole: bool = True
) -> Dataset:
    """The parts of a prepared table; `task` is auto, classification or regression.

    `whole`: whether all columns are going to be used; otherwise take `Dataset.of_columns`. Raises
    `UserError` for fewer than two rows, and for targets that cannot be classes but should.
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
    scaling = Scaling(x, train)
    if whole:
        scaling.of(range(x.shape[1]))
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
