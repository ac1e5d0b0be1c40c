"""One sentence: which rank keeps the others waiting, in which call, and what it does instead."""

from collections.abc import Sequence

from hpcpar.comm.flight.rows import CallRow, Row, missing_row
from hpcpar.comm.flight.words import call_text, place, rank_names, seconds_text, size_text

__all__ = ["Key", "find_call", "verdict"]

Key = tuple[int, str, int]  # a communicator's id, the kind, the number of a call

EVEN = ("allreduce", "bcast", "reduce", "reduce_scatter")  # of one size on all ranks
TOLD = 3  # kinds of doing that are told, before "and 12 more"


def verdict(rows: Sequence[Row], about: tuple[int, Key] | None = None) -> str:
    """What went wrong, from what all ranks are doing.

    Ranks are those of the world. A row that is not there counts as one of which nothing is known.

    Args:
        rows: one for each rank.
        about: the call to speak of, and a rank that called it; without it, the call that keeps
            most ranks waiting.
    """
    return _Story(rows).tell(about)


def find_call(row: Row, key: Key) -> CallRow | None:
    """A rank's call of that key, as far as its row still has it."""
    for call in (row.call, row.last, *row.open, *reversed(row.recent)):
        if call is not None and (call.group, call.kind, call.number) == key:
            return call
    return None


class _Story:
    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = {row.rank: row for row in rows}

    def tell(self, about: tuple[int, Key] | None) -> str:
        found = self._pick(about)
        if found is None:
            return self._nobody_waits()
        row, call = found
        if call.kind == "collective":
            return self._collective(call)
        return self._meeting(row, call) if call.peer < 0 else self._message(row, call)

    def _pick(self, about: tuple[int, Key] | None) -> tuple[Row, CallRow] | None:
        """The call to speak of, and a rank that is in it."""
        if about is not None and about[0] in self.rows:
            row = self.rows[about[0]]
            call = find_call(row, about[1])
            if call is not None:
                return row, call
        waits = [(row, row.call) for row in self.rows.values() if row.call is not None]
        if not waits:
            return None
        # Others may be in a short call at this moment. In a dead run all waits may seem short.
        limit = max(call.seconds for _, call in waits) / 2 - 1
        waits = [(row, call) for row, call in waits if call.seconds >= limit]

        def weight(wait: tuple[Row, CallRow]) -> tuple[bool, int, float]:
            call = wait[1]
            same = sum(_key(other) == _key(call) for _, other in waits)
            return call.kind == "collective", same, call.seconds

        return max(waits, key=weight)

    def _nobody_waits(self) -> str:
        broken = [row for row in self.rows.values() if row.state in ("dead", "stopped", "missing")]
        if broken:
            return f"no rank waits in a call; {self._each(broken)}"
        return "no rank waits in a call"

    def _collective(self, call: CallRow) -> str:
        """Who does not take part, or how else it can be that it does not end."""
        what = f"{call.operation} #{call.number} ({place(call.site)})"
        sorts: dict[str, list[Row]] = {}
        others: dict[str, list[int]] = {}
        for rank in self._members(call.group):
            row = self.rows.get(rank, missing_row(rank))
            theirs = find_call(row, _key(call))
            if theirs is not None:
                text = f"{theirs.operation} #{theirs.number} ({place(theirs.site)})"
                others.setdefault(text, []).append(rank)
            sorts.setdefault(_sort(row, call, theirs), []).append(row)
        if "other" in sorts:  # the calls do not fit together
            told = [
                f"{rank_names(ranks)} {_are(ranks)} in {text}" for text, ranks in others.items()
            ]
            return _join(told, TOLD)
        parts = []
        if absent := sorts.get("absent"):
            parts.append(f"{_ranks(absent)} never entered {what}")
            parts.append(self._each(absent, call.group, pronoun=True))
        if unknown := sorts.get("unknown"):
            parts.append(f"nothing is known of {_ranks(unknown)}, and {what} waits")
        if broken := sorts.get("broken"):
            parts.append(f"{self._each(broken, call.group)}, and others wait there")
        if not parts and (idle := sorts.get("started")):
            parts.append(f"{_ranks(idle)} started {what} without waiting for it")
            parts.append(self._each(idle, call.group, pronoun=True))
        if parts:
            return "; ".join(parts)
        inside, out = sorts.get("inside", []), sorts.get("out", [])
        text = f"all {len(inside) + len(out)} ranks entered {what}"
        if unlike := self._unlike(inside, call):
            return f"{text}, but not alike: {unlike}"
        came = "none came out of it"
        if out and inside:
            came = f"{_ranks(out)} came out of it, {_ranks(inside)} did not"
        return f"{text}, {came}: look at the network, and at the MPI library"

    def _unlike(self, rows: Sequence[Row], call: CallRow) -> str:
        """How ranks that are in one call differ in what they gave it: the root, or the size."""
        names = ("peer", "bytes") if call.operation in EVEN else ("peer",)
        for name in names:
            ranks: dict[int, list[int]] = {}
            for row in rows:
                theirs = find_call(row, _key(call))
                if theirs is not None:
                    ranks.setdefault(getattr(theirs, name), []).append(row.rank)
            if len(ranks) > 1:
                texts = {value: self._value(name, value, call.group) for value in ranks}
                return _join([f"{rank_names(r)} with {texts[v]}" for v, r in ranks.items()], TOLD)
        return ""

    def _value(self, name: str, value: int, group: int) -> str:
        return f"root {self._world(group, value)}" if name == "peer" else size_text(value)

    def _message(self, row: Row, call: CallRow) -> str:
        """Follow who waits for whom."""
        path, told = [row.rank], [f"rank {row.rank} waits in {self._call(call)}"]
        while call.kind == "message" and call.peer >= 0:
            peer = self._world(call.group, call.peer)
            if peer is None:
                break
            if peer in path:
                return self._circle(path[path.index(peer) :])
            row = self.rows.get(peer, missing_row(peer))
            if row.state != "running" or row.call is None:
                told.append(self._each([row]))
                break
            path.append(peer)
            call = row.call
            told.append(f"rank {peer} in {self._call(call)}")
        return ", and ".join(told)

    def _circle(self, ranks: list[int]) -> str:
        calls = [call for rank in ranks if (call := self.rows[rank].call) is not None]
        told = [f"rank {rank} in {self._call(c)}" for rank, c in zip(ranks, calls, strict=True)]
        if len(ranks) == 1:
            return f"{told[0]} waits for itself"
        if {call.operation for call in calls} == {"send", "recv"} and len(ranks) == 2:
            return (
                f"{' and '.join(told)} do not meet: look at their tags and lengths, "
                "and at the network"
            )
        circle = " -> ".join(map(str, [*ranks, ranks[0]]))
        return f"ranks {circle} wait for each other: {_join(told, TOLD)}"

    def _meeting(self, row: Row, call: CallRow) -> str:
        """A call of the messages' kind that all ranks have to come to."""
        members = [self.rows.get(rank, missing_row(rank)) for rank in self._members(call.group)]
        away = [
            other
            for other in members
            if other.state != "running"
            or other.call is None
            or (other.call.group, other.call.operation) != (call.group, call.operation)
        ]
        text = f"rank {row.rank} waits in {self._call(call)}"
        return f"{text}; {self._each(away, call.group)}" if away else text

    def _each(self, rows: Sequence[Row], group: int = 0, pronoun: bool = False) -> str:
        """rank 3 is in recv from 2; ranks that do the same are told together."""
        doings: dict[str, list[Row]] = {}
        for row in rows:
            doings.setdefault(self._doing(row, group, how_long=False), []).append(row)
        told, ends = [], sorted(doings.values(), key=lambda same: same[0].call is not None)
        for same in ends[:TOLD]:
            ranks = [row.rank for row in same]
            longest = max(same, key=lambda row: row.idle)
            who = f"{rank_names(ranks)} {_are(ranks)}"
            if pronoun and len(doings) == 1:
                who = "it is" if len(ranks) == 1 else "they are"
            told.append(f"{who} {self._doing(longest, group, how_long=True)}")
        if more := sum(map(len, ends[TOLD:])):
            told.append(f"and {more} more are elsewhere")
        return ", ".join(told)

    def _doing(self, row: Row, group: int, how_long: bool) -> str:
        """What a rank does: "in recv from 2 (train.py:150)"."""
        after = f", after {self._call(row.last, group, site=False)}" if row.last else ""
        if row.state == "missing":
            return "silent: nothing is known of it"
        if row.state == "ended":
            return f"gone: its program came to its end{after}"
        if row.state == "dead":
            at = f" in {self._call(row.call, group)}" if row.call else after
            return f"dead (process {row.pid} on {row.host}){at}"
        if row.call is not None:
            text = f"in {self._call(row.call, group)}"
        elif row.last is not None and row.last.state == "given up":
            text = f"out of {self._call(row.last, group)}, which it gave up"
        else:
            ago = f" for {seconds_text(row.idle)}" if how_long else ""
            text = f"outside of hpcpar{' at ' + place(row.where) if row.where else ''}{ago}{after}"
        return f"stopped by a signal, {text}" if row.state == "stopped" else text

    def _call(self, call: CallRow, group: int = 0, site: bool = True) -> str:
        """allreduce #118 (train.py:141), and of which ranks, where that is not clear."""
        text = call_text(call, self._world(call.group, call.peer))
        if group and call.group != group and call.kind == "collective":
            members = self._members(call.group)
            if members != self._members(group):
                text += f" of {rank_names(members)}" if members else " of another communicator"
        return f"{text} ({place(call.site)})" if site else text

    def _members(self, group: int) -> list[int]:
        """World ranks of a communicator, in its order, as far as they are known."""
        numbers = {}
        for row in self.rows.values():
            if group in row.groups:
                if row.groups[group].members:
                    return row.groups[group].members
                numbers[row.groups[group].number] = row.rank
        return [numbers[number] for number in sorted(numbers)]

    def _world(self, group: int, peer: int) -> int | None:
        members = self._members(group)
        if any(group in row.groups and row.groups[group].members for row in self.rows.values()):
            return members[peer] if 0 <= peer < len(members) else None
        known = [
            r.rank
            for r in self.rows.values()
            if group in r.groups and r.groups[group].number == peer
        ]
        return known[0] if known else None


def _sort(row: Row, call: CallRow, theirs: CallRow | None) -> str:
    """How a rank stands to a collective."""
    group = row.groups.get(call.group)
    if theirs is not None and theirs.operation != call.operation:
        return "other"
    if group is None:
        return "unknown" if row.state == "missing" else "absent"
    if group.collective < call.number:
        return "absent"
    if row.state in ("dead", "stopped", "ended"):
        return "broken"
    if theirs is None or theirs.state == "over":
        return "out"
    return "started" if theirs.state == "started" else "inside"


def _key(call: CallRow) -> Key:
    return call.group, call.kind, call.number


def _ranks(rows: Sequence[Row]) -> str:
    return rank_names([row.rank for row in rows])


def _are(ranks: Sequence[int]) -> str:
    return "is" if len(ranks) == 1 else "are"


def _join(told: Sequence[str], limit: int) -> str:
    more = [f"and {len(told) - limit} more"] if len(told) > limit else []
    return ", ".join([*told[:limit], *more])
