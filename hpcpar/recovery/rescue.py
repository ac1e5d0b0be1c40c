"""The state of a run, put together from what the ranks that are left have of it."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpcpar.comm import agree
from hpcpar.device import Array, to_host
from hpcpar.parallel.parts import Part, assemble

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["choose_parts", "rescue"]

Parts = Sequence[tuple[Part, Mapping[str, Array]]]  # each with its values, by kind
Fill = Callable[[str, str, Array], None]


def rescue(comm: "Communicator", parts: Parts, fill: Fill | None) -> list[str]:
    """Put tensors together from the `parts` of all ranks, for those that have a use for them.

    Returns the names of the tensors of which not all could be found; nothing is filled then. A
    tensor at a time goes over the network, each part of it from one rank. Collective.

    Args:
        fill: what to do with each whole tensor: name, kind, and its values on the device.
    """
    mine = [part.to_json() for part, _ in parts]
    kinds = sorted({kind for _, values in parts for kind in values})
    offers, every = dict[str, list[tuple[int, int, Part]]](), set[str]()
    for rank, text in enumerate(agree(comm, json.dumps([kinds, mine]))):
        theirs, told = json.loads(text or "[[], []]")
        every.update(theirs)
        for number, part in enumerate(map(Part.from_json, told)):
            offers.setdefault(part.name, []).append((rank, number, part))
    chosen = {name: choose_parts(offered) for name, offered in offers.items()}
    if missing := [name for name, found in chosen.items() if found is None]:
        return missing
    xp = comm.device.xp
    for name, found in chosen.items():
        assert found  # none is missing
        ends = np.cumsum([len(part.run) for _, _, part in found])[:-1]
        for kind in sorted(every):
            own = [parts[number][1][kind] for rank, number, _ in found if rank == comm.rank]
            flat = comm.allgather(xp.concatenate([xp.empty(0, np.float32), *own]))
            if fill is not None:
                values = np.split(to_host(flat), ends)
                pieces = zip((part for _, _, part in found), values, strict=True)
                fill(name, kind, comm.device.asarray(assemble(found[0][2].shape, pieces)))
    return []


def choose_parts(offers: Sequence[tuple[int, int, Part]]) -> list[tuple[int, int, Part]] | None:
    """Parts that make up a whole tensor, the first ones that are offered; None if none do.

    An offer is a rank, its number there, and the part.
    """
    there = np.zeros(offers[0][2].shape, bool)
    chosen = [offer for offer in offers if not there.all() and _mark(offer[2], there)]
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
