"""python -m hpcpar checkpoint verify | list | prune RUN"""

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hpcpar.checkpoint import damages, list_checkpoints, read_manifest, remove
from hpcpar.comm import together
from hpcpar.comm.flight.words import size_text
from hpcpar.errors import UserError

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["checkpoint"]

DAMAGED = 1  # exit status
WIDTH = 100


def checkpoint(
    action: Literal["verify", "list", "prune"], run: str, keep: int = 2, *, comm: "Communicator"
) -> None:
    """A run's checkpoints: verify their checksums, list them, or remove (prune) the old ones.

    Exit status 1 of verify if any file is damaged; each such file is named.

    Args:
        action: verify reads every byte; list looks at manifests and sizes only.
        run: The folder of a run, or its folder checkpoints.
        keep: How many of the newest whole checkpoints prune leaves.
    """
    damaged = False
    with together(comm):
        if comm.rank == 0:
            places = _find(Path(run))
            if action == "verify":
                damaged = _verify(places)
            elif action == "list":
                _list(places)
            else:
                _prune(places, keep)
    if damaged:  # rank 0 tells the launcher
        sys.exit(DAMAGED)


def _find(run: Path) -> list[Path]:
    folder = run if run.name == "checkpoints" else run / "checkpoints"
    places = list_checkpoints(folder)
    if not places:
        raise UserError(f"{run} is not the folder of a run with checkpoints: there are none in it")
    return places


def _verify(places: list[Path]) -> bool:
    """Say of each checkpoint whether it is whole; whether one is not."""
    wrong = False
    for place in places:
        found = _wrong(place, quick=False)
        wrong |= bool(found)
        print(*(found or [f"checkpoint {place} is whole"]), sep="\n", flush=True)
    return wrong


def _list(places: list[Path]) -> None:
    from rich.console import Console
    from rich.table import Table

    width = max(WIDTH, shutil.get_terminal_size((WIDTH, 0)).columns)
    console = Console(force_terminal=False, width=width, highlight=False, markup=False)
    table = Table(box=None, pad_edge=False)
    for name in ("step", "written (UTC)", "size", "ranks", "state"):
        table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
    for place in places:
        step = place.name.removeprefix("step-").lstrip("0") or "0"
        try:
            manifest = read_manifest(place)
        except UserError:
            table.add_row(step, "", "", "", "damaged, or of another version")
            continue
        size = size_text(sum(file.bytes for file in manifest.files))
        when = manifest.time.replace("T", " ").removesuffix("Z")
        found = _wrong(place, quick=True)
        state = "damaged" if found else "whole"
        table.add_row(step, when, size, str(len(manifest.files)), state)
    console.print(table)


def _prune(places: list[Path], keep: int) -> None:
    """Leave the newest ones that are whole, every byte of them, and what is newer than these."""
    if keep < 1:
        raise UserError(f"--keep is {keep}; it must be at least 1")
    old = list(places)
    while old and keep:
        keep -= not _wrong(old.pop(), quick=False)
    for place in old:
        try:
            remove(place)
        except OSError as error:
            raise UserError(f"checkpoint {place} cannot be removed: {error}") from None
        print(f"removed: {place}")
    left = len(places) - len(old)
    print(f"{left} checkpoint{'s are' if left > 1 else ' is'} left")


def _wrong(place: Path, quick: bool) -> list[str]:
    """A sentence for each damaged file."""
    try:
        return list(damages(place, read_manifest(place), None if quick else lambda count: None))
    except UserError as error:
        return [str(error)]
