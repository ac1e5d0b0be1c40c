"""Whoever wants to see what becomes of one leaf of the gradient."""

from typing import Protocol

from hpcpar.device import Array
from hpcpar.schedule.pipeline_actions import SendActivation, SendGradient

__all__ = ["Witness"]


class Witness(Protocol):
    """Is shown, of its leaf, what a rank computes: it must neither keep nor change the arrays."""

    @property
    def leaf(self) -> int:
        """The number of the leaf."""

    def gradient(self, bucket: int, array: Array) -> None:
        """The leaf's gradient of a bucket of this rank, (bucket.size,), as it goes into the sum."""

    def sent(self, micro: int, action: SendActivation | SendGradient, array: Array) -> None:
        """What goes to another stage, of a micro-batch by its number in the global batch."""

    def loss(self, micro: int, loss: float) -> None:
        """The loss of a micro-batch, on the ranks of the last stage."""
