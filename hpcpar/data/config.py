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
        validation: Part of the samples that is kept for validation, at least one sample.
        task: What a table's targets are; auto takes whole numbers for classes.
        cache: Folder for prepared data; empty takes $XDG_CACHE_HOME/hpcpar or ~/.cache/hpcpar.
    """

    paths: list[str] = field(default_factory=list)
    kind: Literal["bytes", "tokens", "table"] = "bytes"
    validation: float = 0.05
    task: Literal["auto", "classification", "regression"] = "auto"
    cache: str = ""

    def check(self) -> None:
        """Raises `UserError` for a fraction of samples that leaves nothing to train on."""
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
