"""What can be asked of synchronization."""

from dataclasses import dataclass
from typing import Literal

from hpcpar.errors import UserError

__all__ = ["SyncConfig"]


@dataclass
class SyncConfig:
    """When workers learn of each other's updates.

    Args:
        mode: bsp: after every step. With servers, ssp: a worker may be staleness steps ahead of
            the slowest; asp: every gradient is applied as it comes. local: each worker trains by
            itself, and every so many steps they meet (DiLoCo).
        servers: Ranks that hold the weights, the last ones; the others compute. 0 for none.
        staleness: Steps of ssp that a worker may not have seen yet, beside the one before.
        every: Steps of local between two meetings.
        outer_lr: Learning rate of the meetings of local.
        outer_momentum: Nesterov momentum of the meetings of local.
        wire: Type of the gradients on their way to servers.
    """

    mode: Literal["bsp", "ssp", "asp", "local"] = "bsp"
    servers: int = 0
    staleness: int = 0
    every: int = 50
    outer_lr: float = 0.7
    outer_momentum: float = 0.9
    wire: Literal["float32", "bf16"] = "float32"

    def check(self, ranks: int) -> None:
        """Raises `UserError` for what does not go together on so many ranks."""
        if self.servers and self.mode == "local":
            raise UserError("--sync.mode local has no servers: leave --sync.servers out")
        if self.mode in ("ssp", "asp") and not self.servers:
            raise UserError(f"--sync.mode {self.mode} needs --sync.servers, at least 1")
        if self.staleness and self.mode != "ssp":
            raise UserError(f"--sync.staleness goes with --sync.mode ssp, not {self.mode}")
        if self.servers >= ranks:
            raise UserError(
                f"--sync.servers is {self.servers} of {ranks} ranks: that leaves no worker; take "
                f"at least {self.servers + 1} ranks"
            )
        if self.wire != "float32" and not self.servers:
            raise UserError(f"--sync.wire {self.wire} needs --sync.servers, at least 1")
