"""Weights and optimizer state of a parallel model as whole tensors on rank 0, and back.

What is saved knows nothing of the layout: any layout reads it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from hpcpar.comm import agree, compare_ranks, together
from hpcpar.device import Array, to_host
from hpcpar.parallel.buckets import Piece
from hpcpar.parallel.parts import Part, assemble

if TYPE_CHECKING:
    from hpcpar.parallel.training import ParallelModel

__all__ = [
    "collect",
    "collect_state",
    "compare_copies",
    "fill",
    "owned",
    "shapes",
    "spread",
    "updated",
]

Whole = Mapping[str, np.ndarray]  # parameter name -> the whole tensor


def shapes(model: "ParallelModel") -> dict[str, tuple[int, ...]]:
    """The shape of every whole tensor, by name."""
    return {p.name: p.whole_shape for p in model.model.parameters if p.tied_to is None}


def collect(model: "ParallelModel", kind: str = "weights") -> dict[str, np.ndarray] | None:
    """Every tensor whole, on rank 0; None elsewhere. `kind` is weights or one of the optimizer's.

    Each element comes from the rank that updates it. Collective.
    """
    own = list(owned(model, kind))
    mine = np.concatenate([np.empty(0, np.float32), *(to_host(array) for _, array in own)])
    words = agree(model.comm, json.dumps([part.to_json() for part, _ in own]))
    together = model.comm.gather(model.comm.device.asarray(mine))
    if together is None:
        return None
    flat, at = to_host(together), 0
    parts: dict[str, list[tuple[Part, np.ndarray]]] = {name: [] for name in shapes(model)}
    for text in words:
        for part in map(Part.from_json, json.loads(text or "[]")):
            parts[part.name].append((part, flat[at : at + len(part.run)]))
            at += len(part.run)
    return {name: assemble(shape, parts[name]) for name, shape in shapes(model).items()}


def collect_state(model: "ParallelModel") -> dict[str, dict[str, np.ndarray]]:
    """All of the optimizer's state, by kind; empty on all ranks but 0. Collective."""
    kinds = model.update.optimizer.kinds
    found = {kind: collect(model, kind) for kind in kinds}
    return {kind: whole for kind, whole in found.items() if whole is not None}


def spread(model: "ParallelModel", whole: Whole | None, kind: str = "weights") -> None:
    """What `collect` gives, back to all ranks: each takes the parts that it holds. Collective.

    `whole` is None on all ranks but 0. It is asked for one tensor after the other, and all ranks
    raise the `UserError` that it may raise.
    """
    for name, shape in shapes(model).items():
        tensor = np.empty(shape, np.float32)
        with together(model.comm):
            if whole is not None:
                tensor[...] = whole[name]
        fill(model, name, model.comm.bcast(model.comm.device.asarray(tensor)), kind)


def compare_copies(model: "ParallelModel") -> None:
    """Ranks that hold the same weights prove that they do. Collective.

    Raises RuntimeError with the ranks that differ.
    """
    digest = hashlib.sha256()
    for number in model.holdings.has_weights:
        digest.update(to_host(model.weights.flat[number]).tobytes())
    own = {"weights": digest.hexdigest()}
    for name, axis in ("data", model.axes.data), ("context", model.axes.context):
        if axis is None or (name == "data" and model.weights.travel):  # slices have no copies
            continue
        for difference in compare_ranks(axis, own):
            raise RuntimeError(f"wrong weights: {name}-parallel {difference}")


def owned(model: "ParallelModel", kind: str = "weights") -> Iterator[tuple[Part, Array]]:
    """What this rank alone updates, flat: its slice of each bucket.

    `kind` is weights or one of the optimizer's.
    """
    for number in model.holdings.updated:
        bucket = model.holdings.buckets[number]
        mine = bucket.slices[model.axes.data_rank]
        wanted = [piece for piece in bucket.pieces(mine) if model.axes.counts(piece.parameter)]
        if kind == "weights":
            flat = model.weights.part(number, mine)
            for piece in wanted:
                yield _part(piece), flat[piece.at - mine.start : piece.at - mine.start + piece.size]
            continue
        state = model.update.optimizer.state[kind]
        for piece in wanted:
            held = next(p for p in model.update.pieces[number] if p.name == piece.name)
            start = piece.run.start - held.run.start
            yield _part(piece), state[piece.name][start : start + piece.size]


def updated(model: "ParallelModel") -> Iterator[tuple[Part, Mapping[str, Array]]]:
    """All that this rank updates, flat: weights and each kind of the optimizer's state.

    Data-parallel ranks that hold whole parameters, and context-parallel ones, update the same.
    """
    state = model.update.optimizer.state
    for piece, weights, _ in model.update.updated():
        kinds = {kind: named[piece.name] for kind, named in state.items()}
        yield _part(piece), {"weights": weights, **kinds}


def fill(model: "ParallelModel", name: str, whole: Array, kind: str = "weights") -> None:
    """Set what this rank holds of a tensor, from the whole of it."""
    for piece, array in _held(model, kind):
        if (piece.parameter.drawn_as or piece.name) == name:
            cut = piece.parameter.cut
            local = whole if cut is None else cut.take(whole)
            array[...] = local.reshape(-1)[piece.run.start : piece.run.stop]


def _held(model: "ParallelModel", kind: str) -> Iterator[tuple[Piece, Array]]:
    """All that lies here, also copies."""
    if kind != "weights":
        for pieces in model.update.pieces.values():
            for piece in pieces:
                yield piece, model.update.optimizer.state[kind][piece.name]
        return
    for number in model.holdings.has_weights:
        run = model.weights.run(number)
        for piece in model.holdings.buckets[number].pieces(run):
            start = piece.at - run.start
            yield piece, model.weights.flat[number][start : start + piece.size]


def _part(piece: Piece) -> Part:
    parameter = piece.parameter
    return Part(piece.name, parameter.whole_shape, parameter.cut, piece.run)
