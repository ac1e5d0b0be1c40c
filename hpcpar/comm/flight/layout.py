"""The bytes of a flight recorder's file, and what they mean.

The file is read while its rank writes it, after the rank was killed, and by processes that have no
MPI: so it has a fixed layout of native 64-bit words, and nothing here imports more than the
standard library. A time is `time.monotonic_ns()`; the header pairs one with the wall clock.

    header    words by the names below, then a JSON text about the process
    groups    256 records: a communicator, how to name its ranks, the last numbers begun
    ring      256 calls of 8 words, a cache line each
    names     64 texts: operations
    sites     512 texts: file:line
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Call", "Group", "Snapshot", "decode", "pulse", "ranges_text", "read_ranges"]

MAGIC = int.from_bytes(b"hpcpar\0f", "little")
VERSION = 1

# Words of the header.
HEAD = 2  # the word where the newest call stands in the ring
PROGRESS = 3  # when something last moved on inside a call
WAIT = 4  # the word of the call that is waited for; 0 if none
WAIT_START = 5  # that call's start: it may have been written over
ANCHOR, ANCHOR_WALL = 6, 7  # one moment on both clocks
PID, RANK, SIZE = 8, 9, 10
CLOSED = 11  # 1 after an orderly end
NAMES_USED, SITES_USED, ABOUT_BYTES = 12, 13, 14
ABOUT = 256  # bytes from the start of the file

GROUPS, GROUP_COUNT, GROUP_WORDS = 4096 // 8, 256, 32
# Words of a group: id (0 is free), ranks, this rank's number, timeout in ns, when it was opened,
# the watch that looks after it, the last collective and the last message begun, world ranks as text
ID, RANKS, NUMBER, TIMEOUT, OPENED, WATCH, COLLECTIVE, MESSAGE, MEMBERS = range(9)
KINDS = {COLLECTIVE: "collective", MESSAGE: "message"}

RING, RING_COUNT, CALL_WORDS = GROUPS + GROUP_COUNT * GROUP_WORDS, 256, 8
# Words of a call: the word of its group that counts it, operation (with REQUEST if it is one that
# was only started), its number, bytes, peer or root or -1, site, start, end (0: under way;
# negative: given up then)
SLOT, OPERATION, CALL_NUMBER, BYTES, PEER, SITE, START, END = range(8)
REQUEST = 1 << 32

NAMES, NAME_COUNT, NAME_BYTES = (RING + RING_COUNT * CALL_WORDS) * 8, 64, 32
SITES, SITE_COUNT, SITE_BYTES = NAMES + NAME_COUNT * NAME_BYTES, 512, 128
FILE_BYTES = SITES + SITE_COUNT * SITE_BYTES

_CALL = struct.Struct("8q")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a communicator."""

    group: int  # its communicator's id; 0 if that is no longer known
    kind: str  # collective or message
    operation: str
    number: int  # which collective, or which message, of its communicator: from 1
    bytes: int
    peer: int  # a rank of the communicator: the peer, or the root; -1 if there is none
    site: str  # file:line outside this package
    start: int  # ns
    end: int  # ns; 0 while it is under way; negative where it was given up
    request: bool  # only started: under way it keeps nobody from computing


@dataclass(frozen=True, slots=True)
class Group:
    """A communicator, as one of its ranks sees it."""

    id: int  # the same on all its ranks
    size: int
    number: int  # of this rank
    timeout: int  # ns
    watch: int  # the id of the watch that looks after it
    begun: dict[str, int]  # kind -> number of the last call begun
    members: str  # world ranks in the order of the communicator, as `ranges_text`; "" if too long


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a recorder holds at one moment."""

    rank: int  # in the world
    size: int
    pid: int
    closed: bool  # its process came to an orderly end
    about: dict[str, str]  # host, command, started, stack (file of C-level tracebacks)
    anchor: tuple[int, int]  # one moment in monotonic ns and in ns since 1970
    activity: int  # ns: when a call last began, moved on or ended
    calls: tuple[Call, ...]  # in the order of their starts
    waiting: Call | None  # what it cannot go on without
    groups: dict[int, Group]


def pulse(words: Sequence[int]) -> tuple[int, ...]:
    """A few words that change whenever a call begins, moves on or ends; cheap to read."""
    head = words[HEAD]
    return head, words[head + START], words[head + END], words[PROGRESS], words[WAIT]


def decode(data: bytes) -> Snapshot:
    """What the bytes of a recorder say. Raises ValueError if they are not a recorder's."""
    if len(data) < FILE_BYTES:
        raise ValueError(f"{len(data)} bytes are no flight recorder")
    words = memoryview(data)[: FILE_BYTES // 8 * 8].cast("q")
    if words[0] != MAGIC or words[1] != VERSION:
        raise ValueError("no flight recorder, or another version's")
    groups, opened = _groups(data, words)
    calls = _calls(data, words, groups, opened)
    head = words[HEAD]
    newest = max(words[PROGRESS], words[head + START], abs(words[head + END]), words[ANCHOR])
    return Snapshot(
        rank=words[RANK],
        size=words[SIZE],
        pid=words[PID],
        closed=words[CLOSED] == 1,
        about=_about(data[ABOUT : ABOUT + words[ABOUT_BYTES]]),
        anchor=(words[ANCHOR], words[ANCHOR_WALL]),
        activity=newest,
        calls=tuple(sorted(calls.values(), key=lambda call: call.start)),
        waiting=_waiting(words, calls),
        groups={group.id: group for group in groups.values()},
    )


def _groups(data: bytes, words: Sequence[int]) -> tuple[dict[int, Group], dict[int, int]]:
    """Groups, and when they were opened, by the word where they stand."""
    groups, opened = {}, {}
    for base in range(GROUPS, RING, GROUP_WORDS):
        if words[base] == 0:
            continue
        groups[base] = Group(
            id=words[base + ID],
            size=words[base + RANKS],
            number=words[base + NUMBER],
            timeout=words[base + TIMEOUT],
            watch=words[base + WATCH],
            begun={kind: words[base + word] for word, kind in KINDS.items()},
            members=_text(data, (base + MEMBERS) * 8, (GROUP_WORDS - MEMBERS) * 8),
        )
        opened[base] = words[base + OPENED]
    return groups, opened


def _calls(
    data: bytes, words: Sequence[int], groups: dict[int, Group], opened: dict[int, int]
) -> dict[int, Call]:
    """The calls of the ring by the word where they stand."""
    calls = {}
    ring = data[RING * 8 : (RING + RING_COUNT * CALL_WORDS) * 8]
    for place, fields in enumerate(_CALL.iter_unpack(ring)):
        slot, operation, number, size, peer, site, start, end = fields
        kind = KINDS.get((slot - GROUPS) % GROUP_WORDS)
        if start <= 0 or kind is None:  # never used, or just being written
            continue
        base = slot - (slot - GROUPS) % GROUP_WORDS
        group = groups.get(base)
        known = group is not None and opened[base] <= start
        calls[RING + place * CALL_WORDS] = Call(
            group=group.id if group is not None and known else 0,
            kind=kind,
            operation=_entry(data, NAMES, NAME_BYTES, operation % REQUEST, words[NAMES_USED]),
            number=number,
            bytes=size,
            peer=peer,
            site=_entry(data, SITES, SITE_BYTES, site, words[SITES_USED]),
            start=start,
            end=end,
            request=operation >= REQUEST,
        )
    return calls


def _waiting(words: Sequence[int], calls: dict[int, Call]) -> Call | None:
    marked = calls.get(words[WAIT])
    if marked is not None and marked.start == words[WAIT_START] and marked.end == 0:
        return marked
    blocked = [call for call in calls.values() if call.end == 0 and not call.request]
    return max(blocked, key=lambda call: call.start, default=None)


def _entry(data: bytes, area: int, size: int, number: int, used: int) -> str:
    return _text(data, area + number * size, size) if 0 < number <= used else "?"


def _text(data: bytes, start: int, size: int) -> str:
    return data[start : start + size].partition(b"\0")[0].decode(errors="replace")


def _about(text: bytes) -> dict[str, str]:
    try:
        return {str(key): str(value) for key, value in json.loads(text or b"{}").items()}
    except (ValueError, AttributeError):  # killed while it was written
        return {}


def ranges_text(ranks: Sequence[int]) -> str:
    """[0, 1, 2, 5] is 0-2,5. The order is kept, so [2, 0, 1] is 2,0-1."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def read_ranges(text: str) -> list[int]:
    """What `ranges_text` was made of."""
    ranks: list[int] = []
    for run in filter(None, text.split(",")):
        first, _, last = run.partition("-")
        ranks += range(int(first), int(last or first) + 1)
    return ranks
