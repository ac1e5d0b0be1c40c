"""The end of writing a checkpoint: it appears complete, under its name, and old ones go."""

from collections.abc import Callable
from pathlib import Path

from hpcpar.checkpoint.manifest import Manifest
from hpcpar.checkpoint.part_file import create
from hpcpar.checkpoint.places import MANIFEST, part_name, partial_of, prune, publish, remove
from hpcpar.checkpoint.reading import load
from hpcpar.errors import UserError

__all__ = ["commit"]


def commit(
    place: Path, manifest: Manifest, keep: int, moved: Callable[[int], None] = lambda count: None
) -> None:
    """Make the parts that lie beside `place` the checkpoint there, and keep the newest ones.

    `moved` is told that it gets on. Raises OSError; `UserError` when a part that was written
    elsewhere is not here.
    """
    partial = partial_of(place)
    for rank, file in enumerate(manifest.files):
        path = partial / part_name(rank)
        # Each is asked for by name: a list of names may be an old one (NFS).
        if not path.is_file() or path.stat().st_size != file.bytes:
            raise UserError(
                f"checkpoint {place} cannot be written: the part of rank {rank} does not arrive; "
                "--run.dir must lie on a file system that all nodes share"
            )
    text = manifest.to_text()
    Manifest.from_text(text)  # what could not be read is not written
    create(partial / MANIFEST, iter([text.encode()]))
    moved(1)
    if _whole(place, moved):  # the same step again, after the loss of a rank
        remove(partial)
    else:
        publish(partial, place)
    moved(1)
    prune(place.parent, keep, newest=manifest.facts.step)


def _whole(place: Path, moved: Callable[[int], None]) -> bool:
    try:
        load(place, moved)
    except UserError:
        return False
    return True
