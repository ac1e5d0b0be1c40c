"""A named grid of ranks: data x pipeline x tensor, or rows x columns x layers."""

from math import prod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["Mesh", "coordinates"]


class Mesh:
    """The ranks of a communicator as a grid; the last axis runs fastest.

    >>> mesh = Mesh(comm, data=-1, pipeline=2, tensor=2)      # -1 takes what is left
    >>> mesh["tensor"].allreduce(x)                           # among the ranks along that axis
    >>> mesh.coords                                           # {"data": 1, "pipeline": 0, ...}

    Attributes: comm; sizes and coords, by the axes' names.
    """

    def __init__(self, comm: "Communicator", **sizes: int) -> None:
        """Collective. Raises ValueError where the grid does not have as many places as ranks."""
        self.comm = comm
        self.sizes = _filled(sizes, comm.size)
        self.coords = coordinates(self.sizes, comm.rank)
        self._parts: dict[str, Communicator] = {}
        for name, size in self.sizes.items():
            if size not in (1, comm.size):
                part = comm.split(_others(self.sizes, self.coords, name), self.coords[name])
                assert part is not None
                self._parts[name] = part

    def __getitem__(self, name: str) -> "Communicator":
        """The communicator of the ranks that differ from this one along axis `name` only.

        Raises KeyError for a name that the mesh lacks, and for an axis of one rank among several,
        which has nobody to communicate with.
        """
        if name not in self.sizes:
            raise KeyError(f"{self} has no axis {name!r}")
        if self.sizes[name] == self.comm.size:
            return self.comm
        if self.sizes[name] == 1:
            raise KeyError(f"{self}: axis {name!r} has one rank: there is nobody to talk to")
        return self._parts[name]

    @property
    def bytes(self) -> int:
        """What this rank has sent, or read in place, over all communicators of the mesh."""
        ledgers = [comm.ledger for comm in (self.comm, *self._parts.values())]
        return sum(entry.bytes for ledger in ledgers for entry in ledger.entries.values())

    def close(self) -> None:
        """Close the communicators of the axes. Collective."""
        for part in self._parts.values():
            part.close()
        self._parts.clear()

    def __repr__(self) -> str:
        return f"<Mesh: {' x '.join(f'{size} {name}' for name, size in self.sizes.items())}>"


def coordinates(sizes: dict[str, int], rank: int) -> dict[str, int]:
    """The place of a rank in a grid; the last axis runs fastest."""
    places = {}
    for name, size in reversed(sizes.items()):
        rank, places[name] = divmod(rank, size)
    return {name: places[name] for name in sizes}


def _filled(sizes: dict[str, int], ranks: int) -> dict[str, int]:
    """The sizes with -1 replaced by what is left."""
    grid = " x ".join(f"{name} {size}" for name, size in sizes.items()) or "no axes"
    if not all(isinstance(size, int | np.integer) for size in sizes.values()):
        raise ValueError(f"mesh of {grid}: sizes are whole numbers")
    open_ones = [name for name, size in sizes.items() if size == -1]
    known = prod(size for size in sizes.values() if size != -1)
    if not sizes or any(size != -1 and size < 1 for size in sizes.values()) or len(open_ones) > 1:
        raise ValueError(f"mesh of {grid}: sizes are from 1, or -1 for one that takes what is left")
    if ranks % known or (not open_ones and known != ranks):
        raise ValueError(
            f"mesh of {grid}: there are {ranks} ranks; the sizes' product must be that"
        )
    return {name: ranks // known if size == -1 else size for name, size in sizes.items()}


def _others(sizes: dict[str, int], coords: dict[str, int], name: str) -> int:
    """A number for the ranks with this rank's coordinates along all axes but `name`."""
    number = 0
    for other, size in sizes.items():
        if other != name:
            number = number * size + coords[other]
    return number
