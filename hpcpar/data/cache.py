"""A cache of prepared data, whose entries are written whole or not at all.

    bytes-5f0c.../     the name is a hash of the path, size and times of every file that was read
        meta.json      what was read, sha256 of the content, size of every file beside it
        content.bin    arrays to be mapped into memory; which ones depends on the kind of data

An entry is written into a hidden folder, flushed to disk, and renamed (atomic in POSIX). It never
changes: an edited source has another name, so that a run keeps what it has mapped.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcpar.errors import UserError
from hpcpar.files import flush

__all__ = ["Cache", "Entry", "Recipe"]

FORMAT = 1  # a part of every name: entries of another format are never looked at
META = "meta.json"
OURS = re.compile(r"[a-z]+-[0-9a-f]{64}|\.partial-[0-9a-f]{16}")
UNUSED = 30 * 24 * 3600  # seconds after which an entry that nobody opened is removed


@dataclass(frozen=True)
class Recipe:
    """How an entry is made.

    `write` fills an empty folder and returns what belongs into meta.json, `digest` at least; it
    yields now and then, to let the one who builds tell others that it is alive.
    """

    kind: str  # lower-case letters
    sources: list[Any]  # JSON; another version of any source is another list
    write: Callable[[Path], Generator[None, None, dict[str, Any]]]

    @property
    def name(self) -> str:
        text = json.dumps([FORMAT, self.kind, self.sources])
        return f"{self.kind}-{hashlib.sha256(text.encode()).hexdigest()}"


@dataclass(frozen=True)
class Entry:
    """A whole entry."""

    folder: Path
    meta: dict[str, Any]


class Cache:
    """The entries in one folder, which processes and nodes may share."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, name: str) -> Entry | None:
        """The entry of this name, or None when it is missing or a file has another size."""
        folder = self.root / name
        try:
            meta = json.loads((folder / META).read_bytes())
            if any((folder / file).stat().st_size != size for file, size in meta["files"].items()):
                return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return Entry(folder, meta)

    def open(self, name: str) -> Entry:
        """The entry of this name; raises `UserError` when it is gone."""
        entry = self.find(name)
        if entry is None:
            raise UserError(f"prepared data {self.root / name} is missing or damaged: start again")
        return entry

    def build(self, recipe: Recipe) -> Generator[None, None, None]:
        """Make the entry unless it is there; run to its end, this generator has done so.

        When it is interrupted nothing is left, and several processes may build the same entry at
        once. Raises `UserError` when the folder cannot be written, and what the recipe raises.
        """
        place = self.root / recipe.name
        if self.find(recipe.name):
            with contextlib.suppress(OSError):  # a cache that we may only read
                os.utime(place)
            return
        partial = self.root / f".partial-{secrets.token_hex(8)}"
        try:
            partial.mkdir(parents=True)
            self._forget()
            meta = yield from recipe.write(partial)
            meta["sources"] = recipe.sources
            meta["files"] = {path.name: path.stat().st_size for path in partial.iterdir()}
            (partial / META).write_text(json.dumps(meta, indent=1) + "\n")
            for path in (*partial.iterdir(), partial):
                flush(path)
            self._put(partial, recipe.name)
            flush(self.root)
        except OSError as error:
            raise UserError(
                f"the cache {self.root} cannot be written: {error.strerror or error}; "
                "name another folder with --data.cache"
            ) from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _put(self, partial: Path, name: str) -> None:
        if not self.find(name):  # else another process was faster, with the same content
            shutil.rmtree(self.root / name, ignore_errors=True)  # a damaged one
            try:
                partial.rename(self.root / name)
            except OSError:
                if not self.find(name):
                    raise

    def _forget(self) -> None:
        """Remove entries that were not opened for long, and what killed processes left."""
        for path in self.root.iterdir():
            with contextlib.suppress(OSError):  # another process removes it too
                if OURS.fullmatch(path.name) and time.time() - path.stat().st_mtime > UNUSED:
                    shutil.rmtree(path)
