"""Where the recorders of a run lie: $TMPDIR/hpcpar-UID/RUN/rankNNNN.flight.

The folder is this user's alone. A file is locked (flock) as long as its process lives, which is how
a folder of an old run is told from one in use.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import time
from pathlib import Path

from hpcpar.comm.flight.layout import FILE_BYTES

__all__ = [
    "base_folder",
    "in_use",
    "make_folder",
    "open_file",
    "recorder_name",
    "remove",
    "stack_name",
    "sweep",
]

KEPT = 8  # folders of dead runs
YOUNG = 60.0  # seconds in which a folder may be without a locked file


def base_folder() -> Path:
    """The folder of all runs of this user on this node."""
    return Path(os.environ.get("TMPDIR") or "/tmp") / f"hpcpar-{os.getuid()}"


def make_folder(run: str) -> Path:
    """The folder of a run. Raises OSError where there can be none, or it is not ours alone."""
    base = base_folder()
    folder = base / run
    with contextlib.suppress(FileExistsError):
        base.mkdir(mode=0o700)
    about = base.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise OSError(f"{base} is not a folder of this user alone")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    return folder


def recorder_name(rank: int) -> str:
    """The name of a rank's recorder in the folder of its run."""
    return f"rank{rank:04d}.flight"


def stack_name(rank: int) -> str:
    """The name of the file for a rank's C-level tracebacks."""
    return f"rank{rank:04d}.stack"


def open_file(folder: Path | None, name: str, size: int = FILE_BYTES) -> int:
    """A new file, its space taken and locked; without a folder, one that has no name.

    Raises OSError where there is no space: found later, it would be a SIGBUS.
    """
    if folder is None:
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    else:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(folder / name, flags, 0o600)
    try:
        if size:
            os.posix_fallocate(descriptor, 0, size)
        if folder is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        if folder is not None:
            (folder / name).unlink(missing_ok=True)
        raise
    return descriptor


def remove(folder: Path, names: list[str]) -> None:
    """Remove files, and the folder if it is empty then."""
    for name in names:
        with contextlib.suppress(OSError):
            (folder / name).unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def sweep(base: Path) -> None:
    """Remove the folders of dead runs, but for the newest 8."""
    found = []
    with contextlib.suppress(OSError):
        for folder in base.iterdir():
            with contextlib.suppress(OSError):
                about = folder.lstat()
                if stat.S_ISDIR(about.st_mode) and about.st_mtime < time.time() - YOUNG:
                    found.append((about.st_mtime, folder))
    dead = [folder for _, folder in sorted(found, reverse=True) if not in_use(folder)]
    for folder in dead[KEPT:]:
        shutil.rmtree(folder, ignore_errors=True)


def in_use(folder: Path) -> bool:
    """Whether a living process holds a recorder in it."""
    try:
        for path in folder.glob("*.flight"):
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            finally:
                os.close(descriptor)
    except OSError:
        return True
    return False
