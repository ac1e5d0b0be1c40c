"""What data-parallel ranks hold and do, from a model that is really made parallel."""

from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from held import draw_bars
from noted import Compute, Entry, Noted, Start, listen
from step import draw_steps

import hpcpar
from hpcpar.nn import Model
from hpcpar.nn.dense import Dense
from hpcpar.nn.losses import loss_for
from hpcpar.parallel import BatchConfig, ParallelConfig
from hpcpar.schedule import check
from hpcpar.schedule.draw import draw

__all__ = ["draw_data_axis"]

WIDTHS = (256, 252, 260, 268, 264)  # no two layers are of one size, so a size tells the layer
LEAVES = 4


def draw_data_axis(folder: Path) -> None:
    """data_sum.svg, zero_held.svg and zero_step.svg."""
    sums = []
    for rank in range(3):
        comm, parallel = _shared(rank, 3, 0, 8)
        _train(parallel, 8)
        sums.append(comm.steps[0])
    check(sums)
    title = "the gradient of a layer, 8 leaves on 3 ranks"
    draw(sums, folder / "data_sum.svg", title=title)

    levels = range(4)
    sizes = [sum(p.size for p in layer.parameters) for layer in _model().layers]
    draw_bars(
        {f"zero {zero}": [_held(_shared(r, 4, zero, LEAVES)[1]) for r in range(4)]
         for zero in levels},
        list(accumulate(sizes)), folder / "zero_held.svg",
    )  # fmt: skip

    def label(start: Start) -> tuple[str, str]:
        kind = "sum of gradients" if start.kind == "reduce_gradients" else "weights"
        return kind, str(sizes.index(start.size))

    draw_steps(
        dict(_step(zero) for zero in levels), folder / "zero_step.svg",
        title="a step of training on rank 0 of 2; numbers are layers", label=label,
        unit="forwards of a layer", elements=sum(sizes) / len(sizes),
    )  # fmt: skip


def _model() -> Model:
    last = len(WIDTHS) - 2
    layers = [
        Dense(f"layers.{i}", *WIDTHS[i : i + 2], std=0.1, activation=i < last, first=i == 0)
        for i in range(last + 1)
    ]
    return Model(layers, loss_for("classification"), 1, WIDTHS[:1])


def _shared(rank: int, ranks: int, zero: int, leaves: int) -> tuple[Noted, Any]:
    """A rank's communicator and its model; each leaf is a micro-batch of one sample."""
    comm: Any = Noted(rank, ranks)
    mesh = hpcpar.Mesh(comm, data=ranks, pipeline=1)
    config, batch = ParallelConfig(zero=zero), BatchConfig(leaves, 1, leaves)  # type: ignore[arg-type]
    return comm, hpcpar.parallelize(_model(), mesh, config, batch)


def _train(parallel: Any, leaves: int, begin: Any = lambda micro: None) -> None:
    """A step of training; `begin` is told of each micro-batch."""

    def batch(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        begin(int(indices[0]))
        return np.ones((len(indices), WIDTHS[0]), np.float32), np.zeros(len(indices), np.int64)

    part: Any = SimpleNamespace(targets_per_sample=1, batch=batch, documents=lambda indices: None)
    with np.errstate(all="ignore"):  # what was not received may be any number
        parallel.loss_and_gradients(part, np.arange(leaves))
        parallel.update.step(1e-3, 1.0)


def _step(zero: int) -> tuple[str, list[Entry]]:
    """What rank 0 of two does, after a name for it."""
    comm, parallel = _shared(0, 2, zero, LEAVES)
    log, leaves = comm.log, list[str]()
    for number, layer in enumerate(parallel.holdings.layers):
        listen(log, layer, "forward", lambda *_, n=number: Compute("forward", f"{n}"))
        listen(log, layer, "backward", lambda *_, n=number: Compute("backward", f"{n}", 2))
    whole = sum(bucket.size for bucket in parallel.holdings.buckets)

    def update(params: dict[str, np.ndarray], *_: object) -> Compute:
        return Compute("update", "", sum(array.size for array in params.values()) / whole)

    listen(log, parallel.update.optimizer, "update", update)
    _train(parallel, LEAVES, lambda micro: leaves.append(str(micro)))
    return f"zero {zero}\nleaves {', '.join(leaves)}", log


def _held(parallel: Any) -> dict[str, list[tuple[range, bool]]]:
    """The elements of the model that a rank has of everything; and whether they stay."""
    buckets = parallel.holdings.buckets
    tops = [0, *accumulate(bucket.size for bucket in buckets)]

    def place(number: int, run: range) -> tuple[range, bool]:
        return range(tops[number] + run.start, tops[number] + run.stop), True

    pieces = [(n, piece) for n, own in parallel.update.pieces.items() for piece in own]
    return {
        "optimizer": [place(n, range(piece.at, piece.at + piece.size)) for n, piece in pieces],
        "gradients": [
            (range(tops[-1]), False),  # a leaf has them all
            *(place(n, total.run) for n, total in enumerate(parallel.gradients)),
        ],
        "parameters": [place(n, parallel.weights.run(n)) for n in range(len(buckets))],
    }
