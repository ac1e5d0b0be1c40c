"""What a rank's communication came to."""

from dataclasses import dataclass, field

__all__ = ["Entry", "Ledger"]


@dataclass
class Entry:
    """Totals of one operation on this rank."""

    calls: int = 0
    messages: int = 0  # sent to other ranks
    bytes: int = 0  # sent to other ranks, and read from or written to their memory in place
    seconds: float = 0.0  # from the start of a call to its end; calls under way together overlap


@dataclass
class Ledger:
    """Totals by operation, e.g. ``comm.ledger["allreduce"].bytes``.

    Algorithm "mpi" sends inside the MPI library: its messages and bytes are not seen.
    """

    entries: dict[str, Entry] = field(default_factory=dict)

    def __getitem__(self, operation: str) -> Entry:
        return self.entries.get(operation, Entry())

    def entry(self, operation: str) -> Entry:
        """The totals of an operation, to be added to."""
        entry = self.entries.get(operation)
        if entry is None:
            entry = self.entries[operation] = Entry()
        return entry

    def add(self, operation: str, messages: int, size: int, seconds: float) -> None:
        """Count one call that has ended."""
        entry = self.entry(operation)
        entry.calls += 1
        entry.messages += messages
        entry.bytes += size
        entry.seconds += seconds

    def __str__(self) -> str:
        lines = [f"{'operation':<16}{'calls':>8}{'messages':>10}{'MB':>12}{'seconds':>10}"]
        for name, entry in sorted(self.entries.items()):
            if not entry.calls:
                continue
            lines.append(
                f"{name:<16}{entry.calls:>8}{entry.messages:>10}"
                f"{entry.bytes / 1e6:>12.3f}{entry.seconds:>10.3f}"
            )
        return "\n".join(lines)
