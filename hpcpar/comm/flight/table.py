"""The table of a hang: a row a rank, or a row for ranks that do the same."""

from collections.abc import Sequence
from itertools import groupby

from hpcpar.comm.flight.layout import ranges_text
from hpcpar.comm.flight.rows import CallRow, GroupRow, Row
from hpcpar.comm.flight.words import call_text, place, seconds_text, size_text

__all__ = ["table"]

MANY = 16  # ranks; more are grouped
# Characters that a column has at most.
LIMITS = {"rank": 14, "host": 12, "state": 8, "call": 26, "for": 7, "at": 20, "before": 15}


def table(rows: Sequence[Row]) -> str:
    """Plain text, a line a rank, hardly wider than 100 columns.

    rank: in the world. call: what it waits in. for: how long it does, or, where it is in no call,
    since its last one. at: the place in your code. before: the last call that it came out of.
    More than 16 ranks share the lines of those that do the same.
    """
    lines = [(row.rank, _fields(row), row) for row in sorted(rows, key=lambda row: row.rank)]
    shown: list[tuple[str, ...]] = []
    if len(lines) > MANY:
        ordered = sorted(lines, key=lambda line: (line[1], line[0]))
        groups = [list(same) for _, same in groupby(ordered, key=lambda line: line[1])]
        for same in sorted(groups, key=lambda group: group[0][0]):
            ranks = ranges_text([rank for rank, _, _ in same])
            hosts = {row.host for _, _, row in same}
            host = hosts.pop() if len(hosts) == 1 else f"{len(hosts)} hosts"
            longest = max((row for _, _, row in same), key=_seconds)
            shown.append(_line(ranks, host, same[0][1], longest))
    else:
        shown = [_line(str(rank), row.host, fields, row) for rank, fields, row in lines]
    columns = [_column(*column) for column in zip(tuple(LIMITS), *shown, strict=True)]
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def _fields(row: Row) -> tuple[str, str, str, str]:
    """What ranks of one line have in common: state, call, at, before."""
    state = row.state if row.state != "running" else ("waits" if row.call else "outside")
    at = place(row.call.site) if row.call else place(row.where)
    if row.inside and not row.call:
        at += f" in {place(row.inside)}"
    before = ""
    if row.last is not None:
        mark = ", left" if row.last.state == "given up" else ""
        before = f"{row.last.operation} #{row.last.number}{mark}"
    return state, _call(row), at, before


def _call(row: Row) -> str:
    if row.call is None:
        return ""
    text = call_text(row.call, _world(row.call, row.groups.get(row.call.group)))
    group = row.groups.get(row.call.group)
    if group is not None and group.size < max((g.size for g in row.groups.values()), default=0):
        text += f" of {ranges_text(group.members) or f'{group.size} ranks'}"
    return text + (f", {size_text(row.call.bytes)}" if row.call.bytes else "")


def _world(call: CallRow, group: GroupRow | None) -> int | None:
    known = group is not None and 0 <= call.peer < len(group.members)
    return group.members[call.peer] if group is not None and known else None


def _seconds(row: Row) -> float:
    return row.call.seconds if row.call else row.idle


def _line(ranks: str, host: str, fields: tuple[str, str, str, str], row: Row) -> tuple[str, ...]:
    state, call, at, before = fields
    since = "" if row.state == "missing" else seconds_text(_seconds(row))
    return ranks, host, state, call, since, at, before


def _column(name: str, *texts: str) -> list[str]:
    """The cells of a column, its head first, all of the same width."""
    limit = LIMITS[name]
    # The end of a place says more than its beginning.
    cut = [
        text
        if len(text) <= limit
        else f"…{text[1 - limit :]}"
        if name == "at"
        else f"{text[: limit - 1]}…"
        for text in (name, *texts)
    ]
    width = max(map(len, cut))
    return [text.ljust(width) for text in cut]
