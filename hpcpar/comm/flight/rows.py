"""A row a rank: what the verdict and the table are made of.

Rows travel between the watchers of the nodes as JSON, so they say durations and texts, no times of
a clock that another node does not have.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from hpcpar.comm.flight.layout import Call, Snapshot, read_ranges

__all__ = ["CallRow", "GroupRow", "Row", "from_json", "make_row", "missing_row", "to_json"]

RECENT = 12  # calls that travel with a row


@dataclass(frozen=True)
class CallRow:
    """A call, as it is told."""

    group: int
    kind: str  # collective or message
    operation: str
    number: int
    peer: int = -1  # a rank of the communicator
    site: str = "?"
    bytes: int = 0
    seconds: float = 0.0  # since it began
    state: str = "under way"  # or started (nobody waits for it), over, given up


@dataclass(frozen=True)
class GroupRow:
    """A communicator, as one of its ranks sees it."""

    size: int
    number: int  # of this rank
    members: list[int]  # world ranks in its order; empty if that is not known here
    collective: int = 0  # the last one begun
    message: int = 0


@dataclass(frozen=True)
class Row:
    """What one rank is doing."""

    rank: int  # in the world
    host: str = "?"
    pid: int = 0
    state: str = (
        "running"  # or stopped, ended (in an orderly way), dead, missing (nothing is known)
    )
    call: CallRow | None = None  # what it waits in
    last: CallRow | None = None  # the last call that is over, or was given up
    open: list[CallRow] = field(default_factory=list)  # started, not waited for, not over
    recent: list[CallRow] = field(default_factory=list)  # all but `call`, the newest last
    groups: dict[int, GroupRow] = field(default_factory=dict)
    where: str = ""  # file:line outside this package, if it is in no call
    inside: str = ""  # the innermost file:line, where that is another one
    idle: float = 0.0  # seconds since a call of it began, moved on or ended


def make_row(
    snapshot: Snapshot, now: int, state: str = "running", where: str = "", inside: str = ""
) -> Row:
    """A rank's row; `now` is in monotonic ns on its node."""
    calls = {call: _call_row(call, now) for call in snapshot.calls}
    over = max((call for call in calls if call.end), key=lambda call: abs(call.end), default=None)
    waiting = calls.pop(snapshot.waiting) if snapshot.waiting else None
    return Row(
        rank=snapshot.rank,
        host=snapshot.about.get("host", "?"),
        pid=snapshot.pid,
        state=state,
        call=replace(waiting, state="under way") if waiting else None,
        last=calls[over] if over else None,
        open=[row for row in calls.values() if row.state == "started"][-RECENT:],
        recent=list(calls.values())[-RECENT:],
        groups={
            group.id: GroupRow(
                group.size,
                group.number,
                read_ranges(group.members),
                group.begun["collective"],
                group.begun["message"],
            )
            for group in snapshot.groups.values()
            if group.id
        },
        where=where,
        inside=inside,
        idle=max(0, now - snapshot.activity) / 1e9,
    )


def missing_row(rank: int) -> Row:
    """The row of a rank of which nothing is known."""
    return Row(rank, state="missing")


def to_json(row: Row) -> dict[str, Any]:
    """A row as JSON can hold it."""
    return asdict(row)


def from_json(fields: dict[str, Any]) -> Row:
    """The row that `to_json` was given."""
    fields = dict(fields)
    for name in ("call", "last"):
        fields[name] = CallRow(**fields[name]) if fields[name] else None
    for name in ("open", "recent"):
        fields[name] = [CallRow(**call) for call in fields[name]]
    fields["groups"] = {int(key): GroupRow(**group) for key, group in fields["groups"].items()}
    return Row(**fields)


def _call_row(call: Call, now: int) -> CallRow:
    if call.end == 0:
        state = "started" if call.request else "under way"
    else:
        state = "over" if call.end > 0 else "given up"
    return CallRow(
        group=call.group,
        kind=call.kind,
        operation=call.operation,
        number=call.number,
        peer=call.peer,
        site=call.site,
        bytes=call.bytes,
        seconds=max(0, now - call.start) / 1e9,
        state=state,
    )
