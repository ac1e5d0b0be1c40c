"""Tables from .csv, .csv.gz and .npz files, and from scikit-learn's bundled data sets."""

import hashlib
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hpcpar.data.cache import Recipe
from hpcpar.data.files import SourceFile, find_files
from hpcpar.errors import UserError

__all__ = ["INPUTS", "TARGETS", "plan_table"]

INPUTS, TARGETS = "x.npy", "y.npy"
SUFFIXES = (".csv", ".csv.gz", ".npz")
SKLEARN = "sklearn:"
SKLEARN_SETS = ("breast_cancer", "diabetes", "digits", "iris", "wine")

Table = tuple[np.ndarray, np.ndarray]  # x float64 (N, F), y int64 or float64 (N, O)
Reader = Generator[None, None, Table]  # yields now and then, returns the table


def plan_table(paths: list[str]) -> Recipe:
    """The rows of all sources, one behind the other.

    Raises `UserError` for an unknown kind of file or data set.
    """
    if not paths:
        raise UserError(
            "--data.kind table reads .csv, .npz or sklearn:NAME: name some with --data.paths"
        )
    keys: list[Any] = []
    readers: list[tuple[str, Callable[[], Reader]]] = []
    for path in paths:
        if path.startswith(SKLEARN):
            keys.append([path, _sklearn_version(path)])
            readers.append((path, partial(_read_sklearn, path.removeprefix(SKLEARN))))
            continue
        files = find_files([path], SUFFIXES)
        if not files:
            raise UserError(f"there is no {', '.join(SUFFIXES)} in {path}: correct --data.paths")
        keys += [file.key for file in files]
        readers += [(str(file.path), _reader(file)) for file in files]
    return Recipe("table", keys, lambda folder: _write(readers, folder))


def _write(
    readers: list[tuple[str, Callable[[], Reader]]], folder: Path
) -> Generator[None, None, dict[str, Any]]:
    tables: list[Table] = []
    for name, reader in readers:
        x, y = yield from reader()
        first = tables[0] if tables else (x, y)
        if (x.shape[1], y.shape[1]) != (first[0].shape[1], first[1].shape[1]):
            raise UserError(
                f"{name} has {x.shape[1]} features and {y.shape[1]} targets, "
                f"{readers[0][0]} has {first[0].shape[1]} and {first[1].shape[1]}"
            )
        tables.append((x, y))
    arrays = {
        INPUTS: np.concatenate([x for x, _ in tables]),
        TARGETS: np.concatenate([y for _, y in tables]),
    }
    digest = hashlib.sha256()
    for name, array in arrays.items():
        values = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        digest.update(f"{values.dtype.str}{values.shape}".encode())
        digest.update(values.data)
        np.save(folder / name, values)
    return {"digest": digest.hexdigest()}


def _reader(file: SourceFile) -> Callable[[], Reader]:
    name = file.path.name
    if not name.endswith(SUFFIXES):
        raise UserError(f"{file.path} is no table: it must be .csv, .csv.gz or .npz")
    if name.endswith(".npz"):
        return partial(_read_npz, file)
    from hpcpar.data.csv_table import read_csv

    return partial(read_csv, file)


def _read_npz(file: SourceFile) -> Reader:
    """The arrays x (N, ...) and y (N,) or (N, O) of a .npz."""
    import zipfile
    import zlib

    yield
    # A TypeError is a lone .npy under the wrong name; pickles, which can run code, are refused.
    damage = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, TypeError)
    with file.reading(*damage), np.load(file.path) as arrays:
        found = {name: arrays[name] for name in ("x", "y") if name in arrays}
    if len(found) < 2:
        raise UserError(f"{file.path} must hold two arrays, x and y")
    return _as_table(str(file.path), found["x"], found["y"])


def _as_table(name: str, x: np.ndarray, y: np.ndarray) -> Table:
    """Raises `UserError` unless these are as many inputs as targets, all of them finite numbers."""
    if x.ndim < 2 or y.ndim not in (1, 2) or len(x) != len(y) or not x.size or not y.size:
        raise UserError(
            f"{name}: x is {x.shape} and y {y.shape}; they must be (rows, features) and (rows,) "
            "or (rows, outputs)"
        )
    x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)
    for letter, values in (("x", x), ("y", y)):
        if values.dtype.kind in "US":
            row, column = _first_text(values)
            found = values[row, column].item()
            raise UserError(
                f"{name}: {letter} is text, {found!r} at row {row}, column {column}, counted from "
                "0; it must hold real numbers"
            )
        if values.dtype.kind not in "biuf":
            raise UserError(
                f"{name}: {letter} is of type {values.dtype}; it must hold real numbers"
            )
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, column = bad[0]
            found = values[row, column]
            raise UserError(
                f"{name}: {letter} is {found} at row {row}, column {column}, counted from 0"
            )
    return x.astype(np.float64), y.astype(np.float64 if y.dtype.kind == "f" else np.int64)


def _first_text(values: np.ndarray) -> tuple[int, int]:
    """Row and column of the first cell that is no number; the first of all where each is one."""
    for (row, column), cell in np.ndenumerate(values):
        try:
            float(cell)
        except ValueError:
            return row, column
    return 0, 0


def _sklearn_version(path: str) -> str:
    import importlib.metadata

    name = path.removeprefix(SKLEARN)
    if name not in SKLEARN_SETS:
        raise UserError(f"{path} is unknown: the data sets are {', '.join(SKLEARN_SETS)}")
    try:
        return importlib.metadata.version("scikit-learn")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"{path} needs scikit-learn: pip install scikit-learn") from None


def _read_sklearn(name: str) -> Reader:
    yield
    from sklearn import datasets  # a second or two

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return _as_table(SKLEARN + name, x, y)
