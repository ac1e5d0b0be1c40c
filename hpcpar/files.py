"""Files that are written whole or not at all."""

import os
from pathlib import Path

__all__ = ["flush", "write_whole"]


def flush(path: Path) -> None:
    """Hand a file's content, or a folder's list of names, to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, text: str, durable: bool = True) -> None:
    """Replace a file by `text`, so that a crash leaves the old one or the new one.

    Where it need not be `durable`, a crash of the machine may leave nothing; a reader sees one or
    the other all the same.
    """
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    if durable:
        flush(partial)
    partial.replace(path)
