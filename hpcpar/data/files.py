"""Finding the files that data is made of, and reading them without missing a change."""

import os
import stat
import sysconfig
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hpcpar.errors import UserError

__all__ = ["SourceFile", "find_files", "standard_library", "title"]

CHUNK = 1 << 23  # bytes read at once
TICK = 20_000_000  # ns; file systems stamp with a clock that is up to 10 ms coarse


@dataclass(frozen=True)
class SourceFile:
    """A file as it was when it was found."""

    path: Path
    size: int  # bytes
    mtime_ns: int
    ctime_ns: int  # set by the kernel: changes also when an edit keeps the size and puts mtime back

    @classmethod
    def at(cls, path: Path) -> "SourceFile":
        """Raises `UserError` unless `path` is a regular file."""
        try:
            found = path.stat()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path} is neither a regular file nor a folder")
        return cls(path, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    @property
    def key(self) -> list[str | int]:
        """What tells this version of the file from any other."""
        return [str(self.path), self.size, self.mtime_ns, self.ctime_ns]

    @contextmanager
    def reading(self, *errors: type[Exception]) -> Iterator[None]:
        """Around the reading of the file: an OSError, or one of `errors`, becomes a `UserError`.

        So does an edit since the file was found, for what is read must be what `key` stands for.
        """
        # An edit within one tick of the clock that stamps files would not show.
        if 0 <= time.time_ns() - self.ctime_ns < TICK:
            time.sleep(TICK / 1e9)
        expected: tuple[type[Exception], ...] = (OSError, *errors)
        try:
            yield
        except expected as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{self.path} cannot be read: {reason}") from None
        if SourceFile.at(self.path) != self:
            raise UserError(f"{self.path} changed while it was being read: start again")

    def chunks(self, offset: int = 0, size: int = CHUNK) -> Iterator[bytes]:
        """The content behind `offset`, in pieces of `size` bytes; only the last one is smaller.

        Raises `UserError` as `reading` does.
        """
        with self.reading(), self.path.open("rb") as file:
            file.seek(offset)
            while chunk := file.read(size):
                yield chunk


def find_files(paths: Iterable[str], suffixes: tuple[str, ...] = ("",)) -> list[SourceFile]:
    """The files that `paths` name, in this order; of folders all regular files, sorted by path.

    Folders are searched recursively for names that end in one of `suffixes`, leaving out hidden
    names and __pycache__. A file that is named twice counts once. Raises `UserError` for a path
    that is missing or unreadable.
    """
    found: dict[Path, None] = {}  # a set that keeps the order
    for name in paths:
        path = Path(name).absolute()
        if path.is_dir():
            found |= dict.fromkeys(sorted(_walk(path, suffixes, {"__pycache__"})))
        else:
            found[path] = None
    return [SourceFile.at(path) for path in found]


def standard_library() -> list[SourceFile]:
    """The sources of the running Python's standard library, without its tests."""
    left_out = {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idle_test"}
    root = Path(sysconfig.get_path("stdlib"))
    return [SourceFile.at(path) for path in sorted(_walk(root, (".py",), left_out))]


def title(paths: list[str]) -> str:
    """What these paths are called in a sentence."""
    if not paths:
        return "Python's standard library"
    rest = len(paths) - 1
    return paths[0] + (f" and {rest} more" if rest else "")


def _walk(root: Path, suffixes: tuple[str, ...], left_out: set[str]) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from None

    for folder, folders, names in os.walk(root, onerror=refuse):
        folders[:] = [f for f in folders if not f.startswith(".") and f not in left_out]
        for name in names:
            path = Path(folder, name)
            if not name.startswith(".") and name.endswith(suffixes) and path.is_file():
                yield path
