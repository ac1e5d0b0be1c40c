"""What a rank's communication came to."""

from collections.abc import Callable
from dataclasses import dataclass, replace

__all__ = ["Entry", "Ledger"]


@dataclass
class Entry:
    """Totals of one operation on this rank."""

    calls: int = 0
    messages: int = 0  # sent to other ranks
    bytes: int = 0  # sent to other ranks, and read from or written to their memory in place
    seconds: float = 0.0  # from the start of a call to its end; calls under way together overlap


class Ledger:
    """Totals by operation, e.g. ``comm.ledger["allreduce"].bytes``.

    Algorithm "mpi" sends inside the MPI library: its messages and bytes are not seen.
    """

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self.sources: list[Callable[[Ledger], object]] = []  # asked before anybody reads

    @property
    def entries(self) -> dict[str, Entry]:
        """All operations that were called, by name."""
        for settle in self.sources:
            settle(self)
        return {name: entry for name, entry in sorted(self._entries.items()) if entry.calls}

    def __getitem__(self, operation: str) -> Entry:
        return replace(self.entries.get(operation, Entry()))

    def add(self, operation: str, messages: int, size: int, seconds: float, calls: int = 1) -> None:
        """Count calls that have ended."""
        entry = self._entries.get(operation)
        if entry is None:
            entry = self._entries[operation] = Entry()
        entry.calls += calls
        entry.messages += messages
        entry.bytes += size
        entry.seconds += seconds

    def __str__(self) -> str:
        lines = [f"{'operation':<16}{'calls':>8}{'messages':>10}{'MB':>12}{'seconds':>10}"]
        for name, entry in self.entries.items():
            lines.append(
                f"{name:<16}{entry.calls:>8}{entry.messages:>10}"
                f"{entry.bytes / 1e6:>12.3f}{entry.seconds:>10.3f}"
            )
        return "\n".join(lines)
