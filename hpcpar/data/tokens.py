"""Files of token numbers, as nanoGPT and llm.c write them. They are used where they lie.

nanoGPT (data/openwebtext/prepare.py): uint16, nothing else. llm.c (dev/data/data_common.py): a
header of 256 int32 (magic, version, number of tokens, zeros), then the tokens: uint16 for GPT-2,
uint32 for Llama 3. All little-endian.
"""

import hashlib
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcpar.data.cache import Entry, Recipe
from hpcpar.data.documents import Documents
from hpcpar.data.files import SourceFile, find_files, title
from hpcpar.data.windows import Stream
from hpcpar.errors import UserError

__all__ = ["TokenFile", "ended_documents", "open_tokens", "plan_tokens", "token_documents"]

ENDS = "ends.npy"

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


def plan_tokens(paths: list[str], separator: int | None = None) -> Recipe:
    """All files one behind the other; of folders, their .bin files.

    With a separator the places where it ends a document are kept. Raises `UserError` when there are
    no files, or no tokens in them.
    """
    if not paths:
        raise UserError("--data.kind tokens reads .bin files: name them with --data.paths")
    files = find_files(paths, (".bin",))
    if not sum(file.size for file in files):
        raise UserError(f"there are no tokens in {title(paths)}: name .bin files with --data.paths")
    keys = [file.key for file in files]
    if separator is not None:
        keys.append(["separator", separator])
    return Recipe("tokens", keys, lambda folder: _scan(files, folder, separator))


def open_tokens(entry: Entry) -> tuple[Stream, int]:
    """The tokens where they lie, and the vocabulary: one more than the largest token."""
    pieces = [TokenFile(**file).map() for file in entry.meta["token_files"]]
    return Stream(pieces), entry.meta["vocabulary"]


def token_documents(entry: Entry, separator: int, name: str) -> Documents:
    """Those that a separator ends, and what is left behind the last one.

    Raises `UserError` for a separator that is nowhere in these tokens.
    """
    vocabulary, ends = entry.meta["vocabulary"], np.load(entry.folder / ENDS)
    if separator >= vocabulary:
        raise UserError(
            f"--data.separator {separator} is outside of the vocabulary of {name}, whose largest "
            f"token is {vocabulary - 1}: name the token that ends a document"
        )
    if not len(ends):
        raise UserError(
            f"there is no document in {name}: --data.separator {separator} ends none; name the "
            "token that does"
        )
    return ended_documents(ends, sum(file["count"] for file in entry.meta["token_files"]))


def ended_documents(ends: np.ndarray, length: int) -> Documents:
    """The documents of `length` tokens whose last ones are at `ends`."""
    starts = np.concatenate([[0], ends + 1]).astype(np.int64)
    return Documents(starts[starts < length], length)


def _scan(
    files: list[SourceFile], folder: Path, separator: int | None
) -> Generator[None, None, dict[str, Any]]:
    """Everything is read once, for its hash, the vocabulary and the separators; these are kept."""
    found = [TokenFile.at(file) for file in files]
    digest, largest, before, ends = hashlib.sha256(), 0, 0, [np.empty(0, np.int64)]
    for file, tokens in zip(files, found, strict=True):
        for chunk in file.chunks(tokens.offset):
            values = np.frombuffer(
                chunk, tokens.dtype, len(chunk) // np.dtype(tokens.dtype).itemsize
            )
            largest = max(largest, int(values.max()))
            digest.update(
                values.astype("<u4").data
            )  # the same tokens have the same hash in any format
            if separator is not None:
                ends.append(np.flatnonzero(values == separator) + before)
            before += len(values)
            yield
        if largest > LARGEST:
            raise UserError(
                f"{file.path} has token {largest}, which no model's vocabulary can hold"
            )
    if separator is not None:
        np.save(folder / ENDS, np.concatenate(ends))
    return {
        "digest": digest.hexdigest(),
        "vocabulary": largest + 1,
        "token_files": [asdict(tokens) for tokens in found],
    }
