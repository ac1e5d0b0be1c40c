"""What a checkpoint says of itself: manifest.json, checked by its own sum and believed in nothing.

{"format": 2, "step": 100, "time": ..., "sampler": [epoch, position], "fingerprint": {...},
 "data": sha256, "config": run.toml, "balance": ..., "kinds": ["weights", "exp_avg", ...],
 "files": [{"name": "part-0000.safetensors", "bytes": ..., "sha256": ..., "parts": [...]}],
 "checksum": sha256 of all this, as JSON with sorted keys}
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from hpcpar.checkpoint.places import MANIFEST, open_regular, part_name, step_of
from hpcpar.errors import UserError
from hpcpar.parallel.parts import Part, covers

__all__ = ["FORMAT", "Facts", "Manifest", "PartFile", "read_manifest"]

FORMAT = 2
_LARGEST = 1 << 28  # bytes of a manifest that are read
_MOST = 1 << 48  # of every number in it
_KIND = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class PartFile:
    """What one rank wrote: for each kind one flat array, of these parts one after the other."""

    bytes: int
    sha256: str
    parts: tuple[Part, ...]

    @cached_property
    def elements(self) -> int:
        """Of one kind."""
        return sum(len(part.run) for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        parts = [part.to_json() for part in self.parts]
        return {"bytes": self.bytes, "sha256": self.sha256, "parts": parts}

    @classmethod
    def from_json(cls, fields: Any) -> "PartFile":
        """What `to_json` gave; raises ValueError, KeyError or TypeError for anything else."""
        size, digest = _count(fields["bytes"]), fields["sha256"]
        if not _SHA256.fullmatch(digest):
            raise ValueError("no sha256")
        return cls(size, digest, tuple(map(Part.from_json, fields["parts"])))


@dataclass(frozen=True)
class Facts:
    """What a checkpoint says of its run, beside numbers.

    Attributes: step; sampler, epoch and position in it; fingerprint; data, the digest of what it
    was trained on; config, a run.toml; balance, a JSON value of whoever shares out the work.
    """

    step: int
    sampler: tuple[int, int]
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    data: str = ""
    config: str = ""
    balance: Any = None


@dataclass(frozen=True)
class Manifest:
    """A checkpoint without its arrays."""

    facts: Facts
    time: str  # UTC, as 2031-12-24T18:00:00Z
    kinds: tuple[str, ...]  # "weights", then the optimizer's
    files: tuple[PartFile, ...]  # by rank

    @cached_property
    def tensors(self) -> dict[str, list[tuple[int, int, Part]]]:
        """Of every tensor its parts: the number of the file, the first element in it, the part."""
        found: dict[str, list[tuple[int, int, Part]]] = {}
        for number, file in enumerate(self.files):
            at = 0
            for part in file.parts:
                found.setdefault(part.name, []).append((number, at, part))
                at += len(part.run)
        return found

    def to_text(self) -> str:
        """The content of manifest.json."""
        facts = self.facts
        files = [{"name": part_name(i)} | file.to_json() for i, file in enumerate(self.files)]
        fields = {
            "format": FORMAT, "step": facts.step, "time": self.time,
            "sampler": list(facts.sampler), "fingerprint": dict(facts.fingerprint),
            "data": facts.data, "config": facts.config, "balance": facts.balance,
            "kinds": list(self.kinds), "files": files,
        }  # fmt: skip
        fields["checksum"] = _checksum(fields)
        return json.dumps(fields, allow_nan=False) + "\n"

    @classmethod
    def from_text(cls, text: str | bytes) -> "Manifest":
        """What `to_text` gave; raises ValueError in words for anything else."""
        try:
            fields = json.loads(text, parse_constant=_no_constant)
            version = fields["format"]
            if type(version) is int and version != FORMAT and 0 < version < 1000:
                age = "an older" if version < FORMAT else "a newer"
                raise _VersionError(f"it is of {age} version of hpcpar (format {version})")
            if version != FORMAT or fields.pop("checksum") != _checksum(fields):
                raise ValueError("its checksum is wrong")
            return cls(_facts(fields), _line(fields["time"]), *_contents(fields))
        except _VersionError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"it is damaged: {type(error).__name__} {error!s:.200}") from error


class _VersionError(ValueError):
    pass


def read_manifest(place: Path) -> Manifest:
    """The manifest of a checkpoint; raises `UserError` that names the file."""
    path = place / MANIFEST
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise ValueError("it is too large")
        manifest = Manifest.from_text(text)
        if manifest.facts.step != step_of(place):
            raise ValueError(f"it is of step {manifest.facts.step}, its folder is not")
    except FileNotFoundError:
        raise UserError(f"checkpoint file {path} is missing") from None
    except OSError as error:
        raise UserError(f"checkpoint file {path} cannot be read: {error}") from None
    except ValueError as error:
        raise UserError(f"checkpoint file {path} cannot be used: {error}") from None
    return manifest


def _checksum(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _facts(fields: Mapping[str, Any]) -> Facts:
    epoch, position = fields["sampler"]
    fingerprint, config = fields["fingerprint"], fields["config"]
    if type(config) is not str:
        raise ValueError("no config")
    return Facts(
        step=_count(fields["step"]),
        sampler=(_count(epoch), _count(position)),
        fingerprint={_line(name): _line(value) for name, value in fingerprint.items()},
        data=_line(fields["data"]),
        config=config,
        balance=fields["balance"],
    )


def _contents(fields: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[PartFile, ...]]:
    """Kinds and files; every tensor is there, once, and no file has more than its size allows."""
    kinds, listed = fields["kinds"], fields["files"]
    if kinds[:1] != ["weights"] or len(set(kinds)) < len(kinds):
        raise ValueError("no weights")
    if not all(_KIND.fullmatch(kind) for kind in kinds):
        raise ValueError("a kind of state with no name")
    if [file["name"] for file in listed] != [part_name(i) for i in range(len(listed))]:
        raise ValueError("files of other names")
    files = tuple(map(PartFile.from_json, listed))
    for file in files:
        if 4 * len(kinds) * file.elements > file.bytes:
            raise ValueError("parts that are larger than their file")
    tensors: dict[str, list[Part]] = {}
    for file in files:
        for part in file.parts:
            tensors.setdefault(part.name, []).append(part)
    for name, parts in tensors.items():
        if not covers(parts[0].shape, parts):
            raise ValueError(f"{name} is not complete")
    return tuple(kinds), files


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MOST:
        raise ValueError("no count")
    return value


def _line(value: Any) -> str:
    """Text that may be shown."""
    if type(value) is not str or not value.isprintable() or len(value) > 1000:
        raise ValueError("no text")
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")
