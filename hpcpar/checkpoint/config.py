"""When checkpoints are written."""

from dataclasses import dataclass

__all__ = ["CheckpointConfig"]


@dataclass
class CheckpointConfig:
    """When checkpoints are written, and how many stay.

    Args:
        every: Steps between two checkpoints; 0 writes one at the end only.
        keep: How many of the newest checkpoints stay on disk.
    """

    every: int = 100
    keep: int = 2
