"""Tables as text: comma-separated numbers, a row a line, the target in the last column."""

import csv
import gzip
import math
import zlib
from array import array
from collections.abc import Generator

import numpy as np

from hpcpar.data.files import SourceFile
from hpcpar.errors import UserError

__all__ = ["read_csv"]

ROWS = 10_000  # between two signs of life


def read_csv(file: SourceFile) -> Generator[None, None, tuple[np.ndarray, np.ndarray]]:
    """Read a .csv or .csv.gz: x float64 (N, F), and y (N, 1), int64 if all are whole.

    A first row without a single number is a header. Raises `UserError` for a file that cannot be
    read, and for what is not a finite number, by row (as an editor counts lines) and column.
    """
    values, whole = array("d"), True
    names: list[str] = []  # of the columns; empty strings without a header
    opening = gzip.open if file.path.suffix == ".gz" else open
    # Bytes that are not UTF-8 become cells that are no numbers, with a row and a column.
    with (
        file.reading(EOFError, zlib.error, csv.Error),
        opening(file.path, "rt", encoding="utf-8-sig", errors="replace", newline="") as text,
    ):
        rows = csv.reader(text, strict=True)
        for row in rows:
            if not row:  # an empty line
                continue
            where = f"{file.path}, row {rows.line_num}"
            if not names:
                if len(row) < 2:
                    raise UserError(
                        f"{where} has one column: a table has features and, last, a target"
                    )
                names = [name.strip() for name in row]
                if not any(_is_number(cell) for cell in row) and any(names):
                    continue
                names = [""] * len(row)
            if len(row) != len(names):
                raise UserError(f"{where} has {len(row)} columns, the first row has {len(names)}")
            try:
                numbers = [float(cell) for cell in row]
            except ValueError:
                numbers = [math.nan]
            if not all(map(math.isfinite, numbers)):
                raise UserError(f"{where}, {_complaint(row, names)}")
            values.extend(numbers)
            whole = whole and _is_whole(row[-1])
            if rows.line_num % ROWS == 0:
                yield
    if not values:
        raise UserError(f"{file.path} has no rows of numbers")
    table = np.frombuffer(values).reshape(-1, len(names))
    return table[:, :-1], table[:, -1:].astype(np.int64) if whole else table[:, -1:]


def _complaint(row: list[str], names: list[str]) -> str:
    """Which cell of a row is not a finite number."""
    column = next(i for i, cell in enumerate(row) if not _is_number(cell))
    name = f" ({names[column]})" if names[column] else ""
    said = f"is {row[column]!r}, which is no finite number" if row[column].strip() else "is missing"
    return f"column {column + 1}{name}: the value {said}"


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _is_whole(cell: str) -> bool:
    """Whether it is written as a whole number, and int64 holds it. 1.0 is not: it was measured."""
    digits = cell.strip().lstrip("+-")
    return digits.isdecimal() and len(digits) < 16
