"""Where checkpoints lie, and the only names that are read, written or removed there.

checkpoints/step-00000100/part-0000.safetensors ... manifest.json     complete
checkpoints/.step-00000100.partial/                                   being written
checkpoints/.step-00000100.replaced/                                  about to be removed
"""

import os
import re
import shutil
import stat
from pathlib import Path

from hpcpar.errors import UserError
from hpcpar.files import flush

__all__ = [
    "MANIFEST",
    "list_checkpoints",
    "open_regular",
    "part_name",
    "partial_of",
    "place_of",
    "prune",
    "publish",
    "remove",
    "remove_leftovers",
    "step_of",
]

MANIFEST = "manifest.json"
_PLACE = re.compile(r"step-([0-9]{8,18})")
_LEFTOVER = re.compile(r"\.step-[0-9]{8,18}\.(partial|replaced)")


def place_of(folder: Path, step: int) -> Path:
    """The folder of a step's checkpoint."""
    return folder / f"step-{step:08d}"


def partial_of(place: Path) -> Path:
    """Where a checkpoint is until it is complete."""
    return place.with_name(f".{place.name}.partial")


def part_name(rank: int) -> str:
    """The file of what one rank wrote."""
    return f"part-{rank:04d}.safetensors"


def step_of(place: Path) -> int | None:
    """The step that a checkpoint's folder is named after; None for any other name."""
    found = _PLACE.fullmatch(place.name)
    return int(found[1]) if found and place_of(place.parent, int(found[1])) == place else None


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints below `folder`, by step; raises `UserError` when it cannot be read."""
    try:
        found = [path for path in folder.iterdir() if step_of(path) is not None and path.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"checkpoints in {folder} cannot be read: {error.strerror}") from None
    return sorted(found, key=lambda path: step_of(path) or 0)


def open_regular(path: Path) -> int:
    """A descriptor to read `path` from; raises OSError for a link, and for what is no file."""
    # Not blocking: opening a pipe would wait for its writer for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is no file")
    return descriptor


def publish(partial: Path, place: Path) -> None:
    """Give a complete checkpoint its name, for good; raises OSError."""
    flush(partial)
    # One of this step is damaged, or it would have stayed.
    replaced = _hide(place) if place.exists() else None
    partial.rename(place)
    flush(place.parent)
    if replaced is not None:
        shutil.rmtree(replaced)


def prune(folder: Path, keep: int, newest: int) -> None:
    """Remove all but the newest `keep` checkpoints of the steps up to `newest`; raises OSError.

    Later ones are not counted: a run that went back to an earlier checkpoint writes them again.
    """
    places = [place for place in list_checkpoints(folder) if (step_of(place) or 0) <= newest]
    for old in places[:-keep]:
        remove(old)


def remove_leftovers(folder: Path) -> None:
    """Remove what a crashed run had begun, or begun to remove; raises OSError."""
    for path in folder.iterdir():
        if _LEFTOVER.fullmatch(path.name):
            remove(path)


def remove(path: Path) -> None:
    """Remove what has one of the names above; raises OSError."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path if path.name.startswith(".") else _hide(path))


def _hide(place: Path) -> Path:
    """Take a checkpoint's name away: no crash then leaves one without some files."""
    hidden = place.with_name(f".{place.name}.replaced")
    if hidden.exists():
        shutil.rmtree(hidden)
    place.rename(hidden)
    return hidden
