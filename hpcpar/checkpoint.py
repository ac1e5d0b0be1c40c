"""Checkpoints: written whole or not at all, checked when read, independent of the number of ranks.

    checkpoints/step-00000100/
        model.safetensors      every parameter by name, float32, unsharded
        optimizer.safetensors  every state tensor as "exp_avg/<parameter>"
        manifest.json          step, sampler, fingerprint; size and sha256 of the files above

A checkpoint is written into a hidden folder beside its place, flushed to disk, and renamed: the
name `step-...` appears only when everything is there (rename is atomic in POSIX). Arrays are in the
safetensors format, which holds data only and cannot run code when it is read.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from hpcpar.errors import UserError
from hpcpar.files import flush

__all__ = [
    "Checkpoint",
    "CheckpointConfig",
    "capture",
    "check_fit",
    "list_checkpoints",
    "load",
    "load_latest",
    "save",
]

FORMAT = 1
MODEL, OPTIMIZER, MANIFEST = "model.safetensors", "optimizer.safetensors", "manifest.json"


@dataclass
class CheckpointConfig:
    """When checkpoints are written, and how many stay.

    Args:
        every: Steps between two checkpoints; 0 writes one at the end only.
        keep: How many of the newest checkpoints stay on disk.
    """

    every: int = 100
    keep: int = 2


@dataclass
class Checkpoint:
    """The state of a run after `step` steps."""

    step: int
    model: dict[str, np.ndarray]  # parameter name -> values
    optimizer: dict[str, dict[str, np.ndarray]]  # state name -> parameter name -> values
    sampler: tuple[int, int]  # epoch, position in it
    fingerprint: dict[str, str] = field(default_factory=dict)
    data: str = ""  # sha256 of what it was trained on
    source: Path | None = None  # the folder it was read from


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint below `folder`, then remove all but the newest `keep`; returns its place.

    Raises `UserError` when the disk refuses; then nothing with a checkpoint's name is left behind.
    """
    place = folder / f"step-{checkpoint.step:08d}"
    partial = folder / f".{place.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(checkpoint.model, partial / MODEL)
        save_file(
            {
                f"{s}/{n}": a
                for s, tensors in checkpoint.optimizer.items()
                for n, a in tensors.items()
            },
            partial / OPTIMIZER,
        )
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "step": checkpoint.step,
            "sampler": list(checkpoint.sampler),
            "fingerprint": checkpoint.fingerprint,
            "data": checkpoint.data,
            "files": {name: _describe(partial / name) for name in (MODEL, OPTIMIZER)},
        }
        manifest["checksum"] = _checksum(manifest)
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        for name in (MODEL, OPTIMIZER):
            (partial / name).chmod(0o644)  # safetensors writes for the owner's eyes only
        for name in (MODEL, OPTIMIZER, MANIFEST, "."):
            flush(partial / name)
        shutil.rmtree(place, ignore_errors=True)  # the same step again, after a resume
        partial.rename(place)
        flush(folder)
        for old in list_checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    except (OSError, SafetensorError) as error:
        raise UserError(f"checkpoint {place} cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return place


def list_checkpoints(folder: Path) -> list[Path]:
    """The folders of the complete checkpoints below `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / MANIFEST).is_file())


def load(place: Path) -> Checkpoint:
    """Read one checkpoint; raises `UserError` that names the file when it is damaged."""
    manifest = _read_manifest(place / MANIFEST)
    for name, expected in manifest["files"].items():
        path = place / name
        if not path.is_file():
            raise UserError(f"checkpoint file {path} is missing")
        if _describe(path) != expected:
            raise UserError(f"checkpoint file {path} is damaged: its size or checksum is wrong")
    try:
        model, flat = load_file(place / MODEL), load_file(place / OPTIMIZER)
    except (SafetensorError, OSError) as error:
        raise UserError(f"checkpoint {place} cannot be read: {error}") from error
    optimizer: dict[str, dict[str, np.ndarray]] = {}
    for key, array in flat.items():
        state, _, name = key.partition("/")
        optimizer.setdefault(state, {})[name] = array
    epoch, position = manifest["sampler"]
    return Checkpoint(
        step=manifest["step"],
        model=model,
        optimizer=optimizer,
        sampler=(epoch, position),
        fingerprint=manifest["fingerprint"],
        data=manifest["data"],
        source=place,
    )


def load_latest(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole; None if there is none at all.

    Each damaged one is named through `warn`, and the one before it is tried. Raises `UserError`
    when there are checkpoints and all of them are damaged.
    """
    places = list_checkpoints(folder)
    for place in reversed(places):
        try:
            return load(place)
        except UserError as error:
            warn(f"{error}; the checkpoint before it is tried, if there is one")
    if places:
        raise UserError(f"all {len(places)} checkpoints in {folder} are damaged; start a new run")
    return None


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text())
        whole = (
            manifest["format"] == FORMAT
            and isinstance(manifest["step"], int)
            and all(isinstance(n, int) for n in manifest["sampler"])
            and len(manifest["sampler"]) == 2
            and isinstance(manifest["fingerprint"], dict)
            and isinstance(manifest["data"], str)
            and set(manifest["files"]) == {MODEL, OPTIMIZER}
            and manifest.pop("checksum") == _checksum(manifest)
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"checkpoint file {path} is damaged: {error!r}") from error
    if not whole:
        raise UserError(f"checkpoint file {path} is damaged, or of another version of hpcpar")
    return manifest


def _checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _describe(path: Path) -> Mapping[str, Any]:
    with path.open("rb") as file:
        return {
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def capture(
    step: int,
    model: Mapping[str, np.ndarray],
    optimizer: Mapping[str, Mapping[str, np.ndarray]],
    sampler: tuple[int, int],
    fingerprint: Mapping[str, str],
    data: str,
) -> Checkpoint:
    """The state of a run, from whole tensors on the host.

    Raises `UserError` for weights that are no numbers: nobody could go on with them.
    """
    for name, array in model.items():
        if not np.isfinite(array).all():
            raise UserError(
                f"after step {step} {name} holds values that are no numbers: lower --optim.lr"
            )
    state = {kind: dict(tensors) for kind, tensors in optimizer.items()}
    return Checkpoint(step, dict(model), state, sampler, dict(fingerprint), data)


def check_fit(
    checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]], kinds: Collection[str]
) -> None:
    """Raises `UserError` unless a checkpoint is of a model with these tensors, and has this state.

    Args:
        shapes: of the whole tensors, by name.
        kinds: of the optimizer's state.
    """
    if checkpoint.optimizer.keys() != set(kinds):
        raise UserError(f"checkpoint {checkpoint.source} was made with another optimizer")
    for what, tensors in [("the model", checkpoint.model), *sorted(checkpoint.optimizer.items())]:
        for name in sorted(tensors.keys() ^ shapes.keys()):
            raise UserError(f"checkpoint {checkpoint.source}: {what} has other parameters ({name})")
        for name, shape in shapes.items():
            if tensors[name].shape != shape:
                raise UserError(
                    f"checkpoint {checkpoint.source}: {name} of {what} has shape "
                    f"{list(tensors[name].shape)}, the run's is {list(shape)}"
                )
