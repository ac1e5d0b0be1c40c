"""Files of token numbers, as nanoGPT and llm.c write them. They are used where they lie.

nanoGPT (data/openwebtext/prepare.py): uint16, nothing else. llm.c (dev/data/data_common.py): a
header of 256 int32 (magic, version, number of tokens, zeros), then the tokens: uint16 for GPT-2,
uint32 for Llama 3. All little-endian.
"""

import hashlib
from collections.abc import Generator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hpcpar.data.cache import Entry, Recipe
from hpcpar.data.files import SourceFile, find_files, title
from hpcpar.data.windows import Stream
from hpcpar.errors import UserError

__all__ = ["TokenFile", "open_tokens", "plan_tokens"]

HEADER = 1024  # bytes
FORMATS = {(20240520, 1): "<u2", (20240801, 7): "<u4"}  # (magic, version) -> type of a token
MAGICS = {
    magic for magic, _ in FORMATS
}  # as two uint16 above 50,256, so no GPT-2 token looks like one
LARGEST = 2**31 - 2  # token numbers travel as int32, and so does the vocabulary


@dataclass(frozen=True)
class TokenFile:
    """Where the tokens of a file are."""

    path: str
    dtype: str
    offset: int  # bytes before the first token
    count: int  # tokens

    @classmethod
    def at(cls, file: SourceFile) -> "TokenFile":
        """Raises `UserError` when the size does not fit the format, or the version is unknown."""
        first = next(file.chunks(size=HEADER), b"")
        header = np.frombuffer(first, "<i4") if len(first) == HEADER else np.zeros(3, np.int32)
        magic, version, count = header[:3].tolist()
        if magic not in MAGICS:
            if file.size % 2:
                raise UserError(
                    f"{file.path} has {file.size} bytes, but tokens of uint16 take 2 each"
                )
            return cls(str(file.path), "<u2", 0, file.size // 2)
        if (magic, version) not in FORMATS:
            raise UserError(
                f"{file.path} has llm.c's format {magic} in version {version}, unknown here"
            )
        dtype = FORMATS[magic, version]
        held = (file.size - HEADER) / np.dtype(dtype).itemsize
        if held != count:
            raise UserError(
                f"{file.path} is damaged: its header tells {count} tokens, it holds {held:g}"
            )
        return cls(str(file.path), dtype, HEADER, count)

    def map(self) -> np.ndarray:
        """The tokens, mapped into memory; raises `UserError` when the file is gone or too short."""
        if not self.count:  # nothing cannot be mapped
            return np.empty(0, self.dtype)
        try:
            return np.memmap(self.path, self.dtype, "r", self.offset, (self.count,))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path} cannot be read: {error}") from None


def plan_tokens(paths: list[str]) -> Recipe:
    """All files one behind the other; of folders, their .bin files.

    Raises `UserError` when there are none, or no tokens in them.
    """
    if not paths:
        raise UserError("--data.kind tokens reads .bin files: name them with --data.paths")
    files = find_files(paths, (".bin",))
    if not sum(file.size for file in files):
        raise UserError(f"there are no tokens in {title(paths)}: name .bin files with --data.paths")
    return Recipe("tokens", [file.key for file in files], lambda folder: _scan(files))


def open_tokens(entry: Entry) -> tuple[Stream, int]:
    """The tokens where they lie, and the vocabulary: one more than the largest token."""
    pieces = [TokenFile(**file).map() for file in entry.meta["token_files"]]
    return Stream(pieces), entry.meta["vocabulary"]


def _scan(files: list[SourceFile]) -> Generator[None, None, dict[str, Any]]:
    """Everything is read once, for its hash and the vocabulary; only these two are kept."""
    found = [TokenFile.at(file) for file in files]
    digest, largest = hashlib.sha256(), 0
    for file, tokens in zip(files, found, strict=True):
        for chunk in file.chunks(tokens.offset):
            values = np.frombuffer(
                chunk, tokens.dtype, len(chunk) // np.dtype(tokens.dtype).itemsize
            )
            largest = max(largest, int(values.max()))
            digest.update(
                values.astype("<u4").data
            )  # the same tokens have the same hash in any format
            yield
        if largest > LARGEST:
            raise UserError(
                f"{file.path} has token {largest}, which no model's vocabulary can hold"
            )
    return {
        "digest": digest.hexdigest(),
        "vocabulary": largest + 1,
        "token_files": [asdict(tokens) for tokens in found],
    }
