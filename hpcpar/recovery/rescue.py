"""The state of a run, put together from what the ranks that are left have of it."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpcpar.comm import agree
from hpcpar.device import Array, to_host
from hpcpar.parallel.parts import Part, assemble
from hpcpar.parallel.state import fill, shapes

if TYPE_CHECKING:
    from hpcpar.parallel import ParallelModel

__all__ = ["choose_parts", "rescue"]

Parts = Sequence[tuple[Part, Mapping[str, Array]]]  # each with its values, by kind


def rescue(model: "ParallelModel", parts: Parts, kinds: Sequence[str]) -> list[str]:
    """Set the weights and the optimizer's state from the `parts` of all ranks. Collective.

    Returns the names of the tensors of which not all could be found; nothing is set then. A
    tensor at a time goes over the network, each part of it from one rank.
    """
    comm = model.comm
    told = agree(comm, json.dumps([part.to_json() for part, _ in parts]))
    offers = [
        (rank, number, Part.from_json(fields))
        for rank, text in enumerate(told)
        for number, fields in enumerate(json.loads(text or "[]"))
    ]
    chosen = {name: choose_parts(shape, offers, name) for name, shape in shapes(model).items()}
    missing = [name for name, found in chosen.items() if found is None]
    if missing:
        return missing
    xp = comm.device.xp
    for name, shape in shapes(model).items():
        found = chosen[name] or []
        for kind in ["weights", *kinds]:
            mine = [parts[number][1][kind] for rank, number, _ in found if rank == comm.rank]
            flat = to_host(comm.allgather(xp.concatenate([xp.empty(0, np.float32), *mine])))
            ends = np.cumsum([len(part.run) for _, _, part in found])[:-1]
            pieces = zip((part for _, _, part in found), np.split(flat, ends), strict=True)
            fill(model, name, comm.device.asarray(assemble(shape, pieces)), kind)
    return []


def choose_parts(
    shape: tuple[int, ...], offers: Sequence[tuple[int, int, Part]], name: str
) -> list[tuple[int, int, Part]] | None:
    """Parts that make up the whole tensor, the first ones that are offered; None if none do.

    An offer is a rank, its number there, and the part.
    """
    there = np.zeros(shape, bool)
    chosen = []
    for rank, number, part in offers:
        if part.name == name and not there.all() and _mark(part, there):
            chosen.append((rank, number, part))
    return chosen if there.all() else None


def _mark(part: Part, there: np.ndarray) -> bool:
    """Mark the elements of a part; whether any is new."""
    flat = (there if part.cut is None else part.cut.take(there)).reshape(-1)
    own = flat[part.run.start : part.run.stop]
    new = not own.all()
    own[...] = True
    if part.cut is not None:  # `take` made a copy
        part.cut.put(flat.reshape(part.cut.local_shape), there)
    return new
