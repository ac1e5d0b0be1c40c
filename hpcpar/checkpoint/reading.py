"""Reading a checkpoint, on any layout: nothing is used that was not checked before."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcpar.checkpoint.manifest import Facts, Manifest, read_manifest
from hpcpar.checkpoint.part_file import check_part, read_run
from hpcpar.checkpoint.places import list_checkpoints, part_name
from hpcpar.errors import UserError
from hpcpar.parallel.parts import assemble

__all__ = ["Checkpoint", "Tensors", "check_fit", "damages", "load", "load_latest"]

_TOLD = 3  # damaged files that are named in one sentence


class Tensors(Mapping[str, np.ndarray]):
    """The whole tensors of one kind by name, each put together when it is asked for.

    Attributes: shapes, by name.
    """

    def __init__(self, place: Path, manifest: Manifest, kind: str) -> None:
        self._place, self._manifest, self._kind = place, manifest, kind
        self.shapes = {name: found[0][2].shape for name, found in manifest.tensors.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        """Raises `UserError` when a file cannot be read any more."""
        manifest = self._manifest
        parts = [
            (part, self._read(number, range(at, at + len(part.run))))
            for number, at, part in manifest.tensors[name]
        ]
        return assemble(self.shapes[name], parts)

    def _read(self, number: int, run: range) -> np.ndarray:
        file, kinds = self._manifest.files[number], self._manifest.kinds
        return read_run(self._place / part_name(number), file, kinds, self._kind, run)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after `facts.step` steps, in files that were whole when it was loaded."""

    place: Path
    facts: Facts
    model: Tensors
    optimizer: Mapping[str, Tensors]  # by kind of state


def damages(
    place: Path, manifest: Manifest, moved: Callable[[int], None] | None = None
) -> Iterator[str]:
    """A sentence for each damaged file of a checkpoint.

    `moved` is told how many bytes were read; None looks at sizes only.
    """
    for number, file in enumerate(manifest.files):
        words = check_part(place / part_name(number), file, manifest.kinds, moved)
        if words:
            yield words


def load(place: Path, moved: Callable[[int], None] = lambda count: None) -> Checkpoint:
    """Check a checkpoint and open it; raises `UserError` that names the files that are damaged."""
    manifest = read_manifest(place)
    found = list(damages(place, manifest, moved))
    if found:
        more = f"; {len(found) - _TOLD} more files" if len(found) > _TOLD else ""
        raise UserError("; ".join(found[:_TOLD]) + more)
    weights, *state = (Tensors(place, manifest, kind) for kind in manifest.kinds)
    optimizer = dict(zip(manifest.kinds[1:], state, strict=True))
    return Checkpoint(place, manifest.facts, weights, optimizer)


def load_latest(
    folder: Path, warn: Callable[[str], None], moved: Callable[[int], None] = lambda count: None
) -> Checkpoint | None:
    """The newest checkpoint that is whole; None if there is none at all.

    Each damaged one is named through `warn`, and the one before it is tried; `moved` is told how
    many bytes were read. Raises `UserError` when there are checkpoints and none can be used.
    """
    places, last = list_checkpoints(folder), ""
    for place in reversed(places):
        try:
            return load(place, moved)
        except UserError as error:
            last = str(error)
            warn(f"{last}; the checkpoint before it is tried, if there is one")
    if places:
        raise UserError(
            f"all {len(places)} checkpoints in {folder} are damaged or of another version; "
            f"start a new run (the oldest: {last})"
        )
    return None


def check_fit(
    checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]], kinds: Collection[str]
) -> None:
    """Raises `UserError` unless a checkpoint is of a model with these tensors, and has this state.

    Args:
        shapes: of the whole tensors, by name.
        kinds: of the optimizer's state.
    """
    if checkpoint.optimizer.keys() != set(kinds):
        raise UserError(f"checkpoint {checkpoint.place} was made with another optimizer")
    found = checkpoint.model.shapes
    for name in sorted(found.keys() ^ shapes.keys()):
        raise UserError(f"checkpoint {checkpoint.place}: the model has other parameters ({name})")
    for name, shape in shapes.items():
        if found[name] != shape:
            raise UserError(
                f"checkpoint {checkpoint.place}: {name} has shape {list(found[name])}, "
                f"the run's is {list(shape)}"
            )
