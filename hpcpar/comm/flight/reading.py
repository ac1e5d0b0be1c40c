"""Reads the recorders of a run, dead or alive, from their folder."""

import time
from pathlib import Path

from hpcpar.comm.flight.folder import in_use
from hpcpar.comm.flight.layout import Snapshot, decode
from hpcpar.comm.flight.rows import Row, make_row, missing_row
from hpcpar.errors import UserError

__all__ = ["read_flight", "read_snapshots"]


def read_snapshots(folder: Path | str) -> list[Snapshot]:
    """The recorders in the folder of a run, in the order of their ranks.

    Raises `UserError` where there are none.
    """
    found = []
    for path in sorted(Path(folder).glob("rank*.flight")):
        try:
            found.append(decode(path.read_bytes()))
        except (OSError, ValueError):
            continue
    if not found:
        raise UserError(
            f"{folder} holds no flight recorders; they are in $TMPDIR/hpcpar-UID/RUN on each node"
        )
    return sorted(found, key=lambda snapshot: snapshot.rank)


def read_flight(folder: Path | str) -> list[Row]:
    """A row for each rank of the run that left recorders in this folder, as it was at its end.

    Times count to the moment at which the last of the ranks was heard of, or to now while one
    lives. A rank without a recorder here (another node's) is missing.
    """
    snapshots = read_snapshots(folder)
    alive = in_use(Path(folder))
    end = time.time_ns() if alive else max(map(_last_heard, snapshots))
    rows = {}
    for snapshot in snapshots:
        mono, wall = snapshot.anchor
        state = "ended" if snapshot.closed else "running"
        rows[snapshot.rank] = make_row(snapshot, end - wall + mono, state)
    return [rows.get(rank) or missing_row(rank) for rank in range(snapshots[0].size)]


def _last_heard(snapshot: Snapshot) -> int:
    mono, wall = snapshot.anchor
    return snapshot.activity - mono + wall
