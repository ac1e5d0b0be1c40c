"""The picture of skewed data, before and after."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpcpar.data.skew import DocumentSkew
from hpcpar.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_classes", "draw_documents"]


def draw_documents(path: Path, found: DocumentSkew) -> None:
    """How long documents are, and what each rank has to do: in order and dealt."""
    figure, (left, right) = _figure()
    lengths = found.lengths
    edges = np.geomspace(max(lengths.min(), 1), lengths.max() + 1, 30)
    left.hist(lengths, bins=edges.tolist(), color="gray")
    left.set(xscale="log", xlabel="tokens of a document", ylabel="documents")
    ranks = np.arange(len(found.dealt))
    for shift, costs, label in ((-0.2, found.in_order, "in order"), (0.2, found.dealt, "dealt")):
        right.bar(ranks + shift, costs / costs.mean(), 0.4, label=label)
    right.axhline(1, color="gray", lw=1, ls="--")
    right.set(xlabel="rank", ylabel="cost, over the mean")
    right.legend()
    _save(figure, path)


def draw_classes(path: Path, in_order: np.ndarray, stratified: np.ndarray) -> None:
    """The rows of each class (ranks, classes) on each rank, as stacked bars."""
    figure, both = _figure()
    for axes, counts, title in zip(
        both, (in_order, stratified), ("in order", "stratified"), strict=True
    ):
        below = np.zeros(len(counts))
        for column in counts.T:
            axes.bar(np.arange(len(counts)), column, bottom=below)
            below += column
        axes.set(xlabel="rank", ylabel="rows, by class", title=title)
    _save(figure, path)


def _figure() -> "tuple[Figure, tuple[Axes, Axes]]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    return figure, (figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2))


def _save(figure: "Figure", path: Path) -> None:
    """As SVG or PNG, by the name; matplotlib takes the canvas that goes with it."""
    try:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    except OSError as error:
        raise UserError(f"--out {path} cannot be written: {error.strerror or error}") from None
