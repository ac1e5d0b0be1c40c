"""Selections in the user's cache: one small file for each kind of machine and layout of ranks."""

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcpar.comm.selection.table import Selection
from hpcpar.files import write_whole

__all__ = ["cache_folder", "cache_path", "load", "processor", "store"]


def processor() -> str:
    """The processor's model."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.machine()


def cache_folder() -> Path:
    """The package's folder in the user's cache (XDG Base Directory Specification).

    Raises RuntimeError where this user has no home.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "hpcpar"


def cache_path(facts: Mapping[str, Any]) -> Path:
    """Where the selection for these facts is kept; raises as `cache_folder`."""
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return cache_folder() / f"selection-{key[:16]}.json"


def load(facts: Mapping[str, Any], nodes: Sequence[int]) -> Selection | None:
    """The selection kept for these facts; None where there is none that can be used."""
    try:
        kept = json.loads(cache_path(facts).read_text())
        if kept["facts"] != json.loads(json.dumps(facts)):
            return None
        return Selection.from_dict(kept["tables"], nodes)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, RecursionError):
        return None


def store(facts: Mapping[str, Any], selection: Selection) -> None:
    """Keep a selection, where that is possible."""
    kept = {"facts": facts, "tables": selection.to_dict()}
    with contextlib.suppress(OSError, RuntimeError):
        path = cache_path(facts)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(kept) + "\n")
