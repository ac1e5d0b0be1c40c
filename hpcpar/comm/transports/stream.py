"""What a GPU does for the transports, said without naming one: tests have stand-ins for it."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

__all__ = ["Event", "Gpu", "Stream"]


class Event(Protocol):
    """A point in a stream."""

    @property
    def done(self) -> bool:
        """Whether the stream has come past it."""


class Stream(Protocol):
    """Work that a GPU does in the order in which it was told to; other streams go their own way."""

    @property
    def handle(self) -> Any:
        """What other libraries call this stream."""

    def to_host(self, host: np.ndarray, source: Any) -> None:
        """Copy device bytes to pinned bytes."""

    def to_device(self, target: Any, host: np.ndarray) -> None:
        """Copy pinned bytes to device bytes."""

    def compute(self, work: Callable[[], object]) -> None:
        """Queue the kernels that `work` starts."""

    def event(self) -> Event:
        """A point after everything so far."""

    def wait(self, event: Event) -> None:
        """Go on, on the GPU, when another stream has come to `event`."""


class Gpu(Protocol):
    """A GPU, as this rank uses it."""

    def stream(self) -> Stream:
        """A new stream, which waits for no other by itself."""

    def caller(self) -> Event:
        """A point after everything so far in the stream of the caller."""

    def pinned(self, size: int) -> np.ndarray:
        """Host memory that the GPU copies to and from by itself, `size` bytes."""

    def bytes_of(self, flat: Any) -> Any:
        """A flat device array as uint8, without a copy."""

    def memory(self, span: Any) -> Any:
        """Device bytes as a buffer that an MPI which knows of GPUs takes."""

    def card(self) -> str:
        """The name of the card in the world: equal for ranks that share one."""
