"""python -m hpcpar doctor --flight FOLDER: what a dead run was doing."""

from pathlib import Path
from typing import Any

from hpcpar.comm.flight import read_flight, table, verdict
from hpcpar.comm.flight.layout import decode
from hpcpar.comm.flight.rows import to_json
from hpcpar.errors import UserError

__all__ = ["read_run"]

MOST_WORDS = 1 << 16  # characters of hang.txt


def read_run(folder: str) -> tuple[str, dict[str, Any]]:
    """The text to print, and the same as JSON can hold it.

    Raises `UserError` where there are no flight recorders.
    """
    path = Path(folder)
    if not path.is_dir():
        what = "is no folder" if path.exists() else "does not exist"
        raise UserError(f"{folder} {what}: name the folder of a run, $TMPDIR/hpcpar-UID/RUN")
    unreadable = _unreadable(path)
    try:
        rows = read_flight(path)
    except UserError:
        if not unreadable:
            raise
        raise UserError(unreadable[0]) from None
    sentence, said = verdict(rows), _last_words(path)
    text = "\n".join([*unreadable, sentence, "", table(rows)])
    if said:
        text += f"\n\nWhen the watchdog ended it, it said:\n{said}"
    told = {"verdict": sentence, "unreadable": unreadable, "said": said}
    return text, told | {"rows": list(map(to_json, rows))}


def _last_words(folder: Path) -> str:
    """What was told when the run was ended for a hang; nothing if it was not."""
    try:
        return (folder / "hang.txt").read_text(errors="replace")[:MOST_WORDS].strip()
    except OSError:
        return ""


def _unreadable(folder: Path) -> list[str]:
    """A sentence for each recorder that cannot be read."""
    sentences = []
    for path in sorted(folder.glob("rank*.flight")):
        try:
            decode(path.read_bytes())
        except OSError as error:
            sentences.append(f"{path} cannot be read: {error.strerror}")
        except ValueError as error:
            sentences.append(f"{path} was cut short, or is of another version: {error}")
    return sentences
