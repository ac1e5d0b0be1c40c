"""The state of a run, put together from what the ranks that are left have of it."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcpar.comm import agree
from hpcpar.device import Array, to_host
from hpcpar.parallel.parts import Part, assemble

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["choose_parts", "last_step", "rescue"]

Parts = Sequence[tuple[Part, Mapping[str, Array]]]  # each with its values, by kind
Fill = Callable[[str, str, Array], None]


def rescue(
    comm: "Communicator", parts: Parts, fill: Fill | None, names: Sequence[str] = ()
) -> list[str]:
    """Put tensors together from the `parts` of all ranks, for those that have a use for them.

    Returns the names of the tensors of which not all could be found; nothing is filled then. A
    tensor at a time goes over the network, each part of it from one rank. Collective.

    Args:
        fill: what to do with each whole tensor: name, kind, and its values on the device.
        names: of the tensors that have to be found, on the ranks that know them.
    """
    mine = [part.to_json() for part, _ in parts]
    kinds = sorted({kind for _, values in parts for kind in values})
    offers, every, wanted = dict[str, list[tuple[int, int, Part]]](), set[str](), set(names)
    for rank, text in enumerate(agree(comm, json.dumps([kinds, mine, list(names)]))):
        theirs, told, asked = json.loads(text or "[[], [], []]")
        every.update(theirs)
        wanted.update(asked)
        for number, part in enumerate(map(Part.from_json, told)):
            offers.setdefault(part.name, []).append((rank, number, part))
    chosen = {name: choose_parts(offered) for name, offered in offers.items()}
    if missing := [name for name in sorted(wanted | chosen.keys()) if not chosen.get(name)]:
        return missing
    xp = comm.device.xp
    for name, found in chosen.items():
        assert found  # none is missing
        ends = np.cumsum([len(part.run) for _, _, part in found])[:-1]
        for kind in sorted(every):
            own = [parts[number][1][kind] for rank, number, _ in found if rank == comm.rank]
            on_device = map(comm.device.asarray, own)
            flat = comm.allgather(xp.concatenate([xp.empty(0, np.float32), *on_device]))
            if fill is not None:
                values = np.split(to_host(flat), ends)
                pieces = zip((part for _, _, part in found), values, strict=True)
                fill(name, kind, comm.device.asarray(assemble(found[0][2].shape, pieces)))
    return []


def last_step(
    comm: "Communicator", mine: int | None, rows: Mapping[int, Any]
) -> tuple[int | None, Any]:
    """The step that those who are left have the state of, and what was told of it. Collective.

    Both are None where nobody knows. Raises RuntimeError on all ranks where they stand apart.

    Args:
        mine: this rank's step; None on one that has nothing.
        rows: what this rank knows of steps.
    """
    told = agree(comm, json.dumps([mine, None if mine is None else rows.get(mine)]))
    known = [(step, row) for step, row in map(json.loads, filter(None, told)) if step is not None]
    if len({step for step, _ in known}) > 1:
        raise RuntimeError(f"the ranks that are left stand after different steps: {told}")
    row = next((row for _, row in known if row is not None), None)
    return (known[0][0] if known else None), row


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
