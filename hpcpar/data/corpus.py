"""Any files as one long text of bytes, joined once into a file that all ranks of a node map."""

import hashlib
import json
import os
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hpcpar.errors import UserError

__all__ = ["build_corpus", "cache_folder", "list_files", "map_corpus", "standard_library"]

CHUNK = 1 << 20  # bytes read at once


def standard_library() -> list[Path]:
    """The Python sources of the running Python's standard library, without tests and packages."""
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    return [
        path
        for path in sorted(root.rglob("*.py"))
        if not left_out & set(path.relative_to(root).parts[:-1])
    ]


def list_files(paths: Sequence[str]) -> list[Path]:
    """The files that `paths` name, in a fixed order; of folders all that are not hidden.

    Raises `UserError` for a path that does not exist.
    """
    if not paths:
        return standard_library()
    files: list[Path] = []
    for name in paths:
        path = Path(name)
        if path.is_dir():
            files += sorted(
                below
                for below in path.rglob("*")
                if below.is_file() and not _hidden(below.relative_to(path).parts)
            )
        elif path.exists():
            files.append(path)
        else:
            raise UserError(f"--data.paths: {path} does not exist")
    if not files:
        raise UserError(f"--data.paths: there is no file in {', '.join(paths)}")
    return files


def cache_folder(wish: str) -> Path:
    """Where joined texts are kept."""
    if wish:
        return Path(wish)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "hpcpar"


def build_corpus(files: Sequence[Path], cache: Path) -> Path:
    """Join the files into one in `cache`, unless it is there and up to date; returns its path.

    The file is called after the names of its sources. Beside it lies a JSON file with the state of
    each source (size, times of modification and change) and the SHA-256 of the whole; the text is
    joined again when a source's state has changed. Both are written to a temporary name and renamed,
    so ranks that have mapped the old text keep it. Raises `UserError` for what cannot be read or
    written.
    """
    try:
        states = [_state(path) for path in files]
        name = hashlib.sha256(
            "\0".join(str(path.absolute()) for path in files).encode()
        ).hexdigest()
        joined = cache / f"{name[:16]}.bytes"
        if _up_to_date(joined, states):
            return joined
        cache.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with tempfile.NamedTemporaryFile(dir=cache, prefix=".corpus-", delete=False) as target:
            try:
                for path in files:
                    with path.open("rb") as source:
                        while chunk := source.read(CHUNK):
                            digest.update(chunk)
                            target.write(chunk)
                target.flush()
                os.fsync(target.fileno())
                meta = {"sources": states, "bytes": target.tell(), "sha256": digest.hexdigest()}
                partial = Path(target.name).with_suffix(".json")
                partial.write_text(json.dumps(meta))
                # The text first: a text without its description is joined again.
                joined.with_suffix(".json").unlink(missing_ok=True)
                os.replace(target.name, joined)
                os.replace(partial, joined.with_suffix(".json"))
            except BaseException:
                Path(target.name).unlink(missing_ok=True)
                Path(target.name).with_suffix(".json").unlink(missing_ok=True)
                raise
    except OSError as error:
        raise UserError(f"{error.filename or cache}: {error.strerror}") from error
    return joined


def map_corpus(joined: Path) -> tuple[np.ndarray, str]:
    """The joined text, uint8, mapped read-only into memory; and its SHA-256."""
    meta = json.loads(joined.with_suffix(".json").read_text())
    if meta["bytes"] == 0:
        return np.empty(0, np.uint8), meta["sha256"]
    return np.memmap(joined, np.uint8, mode="r"), meta["sha256"]


def _state(path: Path) -> list[str | int]:
    # The time of change tells of an edit even where the time of modification was set back.
    about = path.stat()
    return [str(path.absolute()), about.st_size, about.st_mtime_ns, about.st_ctime_ns]


def _up_to_date(joined: Path, states: list[list[str | int]]) -> bool:
    try:
        meta = json.loads(joined.with_suffix(".json").read_text())
        return meta["sources"] == states and joined.stat().st_size == meta["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _hidden(parts: Sequence[str]) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in parts)
