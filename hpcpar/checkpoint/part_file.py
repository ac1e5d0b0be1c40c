"""One rank's file: flat float32 arrays, one a kind, as safetensors.

The header follows from the kinds and the number of elements, so a reader that knows both from the
manifest compares it and parses nothing (https://github.com/huggingface/safetensors#format: the
header's length as 8 bytes, the header in JSON, the arrays).
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from io import BufferedReader
from pathlib import Path

import numpy as np

from hpcpar.checkpoint.manifest import PartFile
from hpcpar.checkpoint.places import open_regular
from hpcpar.errors import UserError

__all__ = ["check_part", "create", "header", "read_run", "write_part"]

BLOCK = 1 << 22  # bytes that are hashed and written at a time
FLUSHED = 1 << 26  # bytes after which the disk has to follow, so that a wait sees it move


def header(kinds: Sequence[str], elements: int) -> bytes:
    """What comes before the arrays."""
    size = 4 * elements
    fields = {
        kind: {"dtype": "F32", "shape": [elements], "data_offsets": [i * size, (i + 1) * size]}
        for i, kind in enumerate(kinds)
    }
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_part(
    path: Path, kinds: Sequence[str], arrays: np.ndarray, moved: Callable[[int], None]
) -> tuple[int, str]:
    """Write `arrays`, (kinds, elements) of float32, to disk; the size and sha256 of the file.

    `moved` is told how many bytes are on their way. Raises OSError.
    """
    digest, start = hashlib.sha256(), header(kinds, arrays.shape[1])
    flat = np.ascontiguousarray(arrays, "<f4").reshape(-1).view(np.uint8)

    def blocks() -> Iterator[bytes | memoryview]:
        yield start
        for at in range(0, flat.size, BLOCK):
            yield flat[at : at + BLOCK].data

    def hashed() -> Iterator[bytes | memoryview]:
        for block in blocks():
            digest.update(block)
            yield block
            moved(len(block))

    create(path, hashed())
    return len(start) + flat.size, digest.hexdigest()


def create(path: Path, blocks: Iterator[bytes | memoryview]) -> None:
    """Write a new file and flush it to disk; raises OSError, also where there is one."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o644)
    try:
        waiting = 0
        for block in blocks:
            rest = memoryview(block)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            waiting += len(block)
            if waiting >= FLUSHED:
                os.fsync(descriptor)
                waiting = 0
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_part(
    path: Path, file: PartFile, kinds: Sequence[str], moved: Callable[[int], None] | None
) -> str:
    """What is wrong with a part's file, in words; "" if nothing is.

    `moved` is told how many bytes were read; None looks at the file's size only.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as opened:
            wrong = _wrong(opened, file, header(kinds, file.elements), len(kinds), moved)
    except FileNotFoundError:
        return f"checkpoint file {path} is missing"
    except OSError as error:
        return f"checkpoint file {path} cannot be read: {error}"
    return wrong and f"checkpoint file {path} is damaged: its {wrong} is wrong"


def _wrong(
    opened: BufferedReader,
    file: PartFile,
    start: bytes,
    kinds: int,
    moved: Callable[[int], None] | None,
) -> str:
    size = os.fstat(opened.fileno()).st_size
    if size != file.bytes or size != len(start) + 4 * kinds * file.elements:
        return "size"
    if moved is None:
        return ""
    if opened.read(len(start)) != start:
        return "header"
    digest = hashlib.sha256(start)
    while block := opened.read(BLOCK):
        digest.update(block)
        moved(len(block))
    return "" if digest.hexdigest() == file.sha256 else "checksum"


def read_run(path: Path, file: PartFile, kinds: Sequence[str], kind: str, run: range) -> np.ndarray:
    """Elements of one kind's array; raises `UserError` when they cannot be read."""
    start = len(header(kinds, file.elements))
    at = start + 4 * (kinds.index(kind) * file.elements + run.start)
    try:
        with os.fdopen(open_regular(path), "rb", buffering=0) as opened:
            opened.seek(at)
            found = np.fromfile(opened, "<f4", len(run))
    except OSError as error:
        raise UserError(f"checkpoint file {path} cannot be read: {error}") from None
    if found.size < len(run):
        raise UserError(f"checkpoint file {path} is damaged: it has become shorter")
    return found
