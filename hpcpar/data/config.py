"""What to learn from."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hpcpar.errors import UserError

__all__ = ["DataConfig"]


@dataclass
class DataConfig:
    """The data.

    Args:
        paths: Files and folders; none takes the running Python's standard library sources. Tables
            are .csv, .csv.gz, .npz (x and y), or sklearn:NAME.
        kind: bytes reads any file, tokens nanoGPT's and llm.c's .bin, table rows of numbers.
        partition: What ranks have of the data: sample shares every global batch out by samples;
            batch gives each data-parallel rank a global batch of its own; feature gives each tensor
            rank some columns of a table.
        validation: Part of the samples that is kept for validation, at least one sample.
        task: What a table's targets are; auto takes whole numbers for classes.
        documents: Whether attention stays within documents: for bytes each file is one, for tokens
            each ends with the separator.
        separator: The token that ends a document; 50256 is GPT-2's.
        balance: Put together micro-batches that cost the same; for documents.
        stratify: Give each batch the classes in the proportions of the whole table.
        cache: Folder for prepared data; empty takes $XDG_CACHE_HOME/hpcpar or ~/.cache/hpcpar.
    """

    paths: list[str] = field(default_factory=list)
    kind: Literal["bytes", "tokens", "table"] = "bytes"
    partition: Literal["sample", "batch", "feature"] = "sample"
    validation: float = 0.05
    task: Literal["auto", "classification", "regression"] = "auto"
    documents: bool = False
    separator: int = 50256
    balance: bool = False
    stratify: bool = False
    cache: str = ""

    def check(self) -> None:
        """Raises `UserError` for a fraction that leaves nothing to train on, and for what does not
        go with this kind of data.
        """
        if self.documents and self.kind == "table":
            raise UserError(
                "--data.documents is for text and tokens; the rows of a table are samples by "
                "themselves: leave it out"
            )
        if self.balance and not self.documents:
            raise UserError(
                "--data.balance is for samples that cost unevenly, which they do with "
                "--data.documents true only: add that, or leave it out"
            )
        if self.stratify and self.kind != "table":
            raise UserError(
                "--data.stratify is for tables whose targets are classes: take --data.kind table, "
                "or leave it out"
            )
        if not 0 <= self.validation < 1:
            raise UserError(
                f"--data.validation is {self.validation}; it must be at least 0 and below 1"
            )

    @property
    def cache_folder(self) -> Path:
        """Where prepared data is kept (XDG Base Directory Specification); raises `UserError`."""
        if self.cache:
            return Path(self.cache)
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))
        try:
            return (base if base.is_absolute() else Path.home() / ".cache") / "hpcpar"
        except RuntimeError:
            raise UserError(
                "there is no home folder to cache data in: name one with --data.cache"
            ) from None
