"""What happens to a run, told twice: as a note on standard error, and as a line of events.jsonl."""

from typing import TYPE_CHECKING, Any

from hpcpar.entry import note
from hpcpar.run.folder import event

if TYPE_CHECKING:
    from hpcpar.comm import Communicator
    from hpcpar.run import RunFolder

__all__ = ["Events"]


class Events:
    """All ranks tell all events; the one that has the run's folder writes them.

    After the loss of a rank nobody has it for a while. What is told then every rank keeps, and the
    one that has the folder next writes it.
    """

    def __init__(self) -> None:
        self._folder: RunFolder | None = None
        self._kept: list[dict[str, Any]] | None = []  # None while one of the ranks has the folder

    def open(self, folder: "RunFolder | None") -> None:
        """One rank has a folder now; None on the others."""
        kept, self._kept, self._folder = self._kept or [], None, folder
        if folder is not None:
            for happened in kept:
                folder.tell(happened)

    def close(self) -> None:
        """Nobody has a folder any more."""
        self._folder, self._kept = None, self._kept or []

    def add(self, kind: str, text: str, step: int) -> None:
        """Something has happened after `step`."""
        happened = event(kind, text, step)
        if self._kept is not None:
            self._kept.append(happened)
        elif self._folder is not None:
            self._folder.tell(happened)

    def note(self, kind: str, text: str, step: int, comm: "Communicator") -> None:
        """The same, and rank 0 says it."""
        note(text, comm)
        self.add(kind, text, step)
