"""Any files as text: each byte is a token, so the vocabulary is 256 and nothing is ever unknown."""

import hashlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from hpcpar.data.cache import Entry, Recipe
from hpcpar.data.documents import Documents
from hpcpar.data.files import SourceFile, find_files, standard_library, title
from hpcpar.data.windows import Stream
from hpcpar.errors import UserError

__all__ = ["VOCABULARY", "open_text", "plan_text", "text_documents"]

VOCABULARY = 256
CONTENT = "content.bin"


def plan_text(paths: list[str]) -> Recipe:
    """All files one behind the other. Raises `UserError` when there is not a single byte."""
    files = find_files(paths) if paths else standard_library()
    if not sum(file.size for file in files):
        raise UserError(
            f"the text is empty: {title(paths)} has 0 bytes; name more with --data.paths"
        )
    return Recipe("bytes", [file.key for file in files], lambda folder: _write(files, folder))


def open_text(entry: Entry) -> Stream:
    """The bytes, mapped into memory; ranks of a node share the pages."""
    return Stream([np.memmap(entry.folder / CONTENT, np.uint8, mode="r")])


def text_documents(entry: Entry) -> Documents:
    """One a file; empty files are none."""
    sizes = np.array([size for _, size, *_ in entry.meta["sources"] if size], np.int64)
    return Documents(np.cumsum(sizes) - sizes, int(sizes.sum()))


def _write(files: list[SourceFile], folder: Path) -> Generator[None, None, dict[str, Any]]:
    digest = hashlib.sha256()
    with (folder / CONTENT).open("wb") as content:
        for file in files:
            for chunk in file.chunks():
                digest.update(chunk)
                content.write(chunk)
                yield
    return {"digest": digest.hexdigest()}
