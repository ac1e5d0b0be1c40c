"""Who serves which keys. Pure.

Servers are numbered from 0, and there are as many key ranges. Range r is served by server r and
backed up by the next one; where servers are lost, by the first two that are left from r on.
"""

from collections.abc import Collection
from dataclasses import dataclass

__all__ = ["Roles"]


@dataclass(frozen=True)
class Roles:
    """So many workers and servers: ranks 0 to workers - 1, and those after them."""

    workers: int
    servers: int

    def rank(self, server: int) -> int:
        """The rank of a server."""
        return self.workers + server

    def holders(self, number: int, lost: Collection[int]) -> list[int]:
        """Ranks that have a key range: who serves it, and who backs it up, where there is one.

        `lost`: ranks that are gone. Empty where nobody is left.
        """
        order = (self.rank((number + shift) % self.servers) for shift in range(self.servers))
        return [rank for rank in order if rank not in lost][:2]

    def ranges(self, rank: int, lost: Collection[int]) -> list[int]:
        """The key ranges that a server has, as the first or as the second."""
        return [n for n in range(self.servers) if rank in self.holders(n, lost)]
