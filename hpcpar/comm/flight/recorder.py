"""The flight recorder: what this process is doing, in a file that outlives it.

A call costs two stores into mapped memory and no system call, so it is always on. The recorder has
two ways to note a call:

>>> entry = recorder.begin(slot, operation, number, size, peer, site)   # a call that blocks
>>> ...                                                                 # e.g. MPI_Allreduce
>>> recorder.end(entry)                                                 # in a finally clause

>>> call = recorder.start(slot, operation, number, size, peer, site)    # one that is only started
>>> recorder.wait(call)        # from here on the process cannot go on without it
>>> recorder.progress()        # whenever a transfer of it is over
>>> recorder.go_on()           # the wait is over
>>> recorder.finish(call)      # the call is over

Every call must be ended, finished or given up, also where an exception leaves it: the watchdog
takes one that blocks for longer than its communicator's timeout for a hang.
"""

import itertools
import json
import mmap
import os
import struct
import time
from collections.abc import Callable, Sequence
from types import CodeType, FrameType

from hpcpar.comm.flight import layout
from hpcpar.comm.flight.layout import CALL_WORDS, END, START

__all__ = ["Recorder"]

Entry = int  # the word where the call stands in the ring
Started = tuple[Entry, int]  # and its start, for it may have been written over since


class Recorder:
    """Records the calls of one process. Threads may share it.

    Args:
        descriptor: an open file of its own, at least `layout.FILE_BYTES` long and all zero; None
            records into memory that nobody else sees.
        rank, size: in the world.
        about: short texts about the process: host, command, started, stack.

    `begin` and `end` together cost about half a microsecond; that is why they are closures.
    """

    begin: Callable[[int, int, int, int, int, int], Entry]
    end: Callable[[Entry], None]
    start: Callable[[int, int, int, int, int, int], Started]

    def __init__(
        self,
        descriptor: int | None,
        rank: int = 0,
        size: int = 1,
        about: dict[str, str] | None = None,
    ) -> None:
        memory = mmap.mmap(-1 if descriptor is None else descriptor, layout.FILE_BYTES)
        self.descriptor, self.rank = descriptor, rank
        self._memory, self._words = memory, memoryview(memory).cast("q")
        self._names: dict[str, int] = {}
        self._sites: dict[tuple[int, int], tuple[int, CodeType]] = {}
        self._free = list(
            range(layout.GROUPS + layout.GROUP_WORDS, layout.RING, layout.GROUP_WORDS)
        )
        self._write_header(rank, size, about or {})
        self._no_group = self._describe(layout.GROUPS, 0, [], 0, 0, 0)
        self._open_ring()

    def _write_header(self, rank: int, size: int, about: dict[str, str]) -> None:
        words = self._words
        text = json.dumps(about).encode()
        room = layout.GROUPS * 8 - layout.ABOUT
        if len(text) > room:  # of all of it, only a command line can be so long
            text = json.dumps({key: value[:200] for key, value in about.items()}).encode()[:room]
        self._memory[layout.ABOUT : layout.ABOUT + len(text)] = text
        words[layout.ABOUT_BYTES] = len(text)
        words[layout.PID], words[layout.RANK], words[layout.SIZE] = os.getpid(), rank, size
        words[layout.ANCHOR], words[layout.ANCHOR_WALL] = time.monotonic_ns(), time.time_ns()
        words[layout.HEAD] = layout.RING
        words[1] = layout.VERSION
        words[0] = layout.MAGIC  # last: a file with it is whole

    def _open_ring(self) -> None:
        words, memory, now = self._words, self._memory, time.monotonic_ns
        pack = struct.Struct("8q").pack_into
        places = range(layout.RING, layout.RING + layout.RING_COUNT * CALL_WORDS, CALL_WORDS)
        place = itertools.cycle(places).__next__  # one C call, so threads never get the same one
        head, end_word, request = layout.HEAD, END, layout.REQUEST

        def begin(slot: int, operation: int, number: int, size: int, peer: int, site: int) -> Entry:
            """Note a call that begins and keeps this thread until its end."""
            entry = place()
            pack(memory, entry * 8, slot, operation, number, size, peer, site, now(), 0)
            words[slot] = number
            words[head] = entry
            return entry

        def end(entry: Entry) -> None:
            """Note that a call is over."""
            words[entry + end_word] = now()

        def start(
            slot: int, operation: int, number: int, size: int, peer: int, site: int
        ) -> Started:
            """Note a call that begins and lets this thread go on."""
            entry = begin(slot, operation + request, number, size, peer, site)
            return entry, words[entry + START]

        self.begin, self.end, self.start = begin, end, start

    def wait(self, call: Started) -> None:
        """This thread cannot go on until `call` is over."""
        self._words[layout.WAIT_START] = call[1]
        self._words[layout.WAIT] = call[0]

    def go_on(self) -> None:
        """It can."""
        self._words[layout.WAIT] = 0

    def progress(self) -> None:
        """Something moved: the wait under way is slow, not hung."""
        self._words[layout.PROGRESS] = time.monotonic_ns()

    def finish(self, call: Started) -> None:
        """A call that was only started is over."""
        self._close(call, time.monotonic_ns())

    def give_up(self, call: Started | Entry) -> None:
        """A call is left without its end: what it waited for did not come."""
        if isinstance(call, int):
            call = call, self._words[call + START]
        self._close(call, -time.monotonic_ns())

    def _close(self, call: Started, moment: int) -> None:
        entry, start = call
        words = self._words
        if words[entry + START] == start:  # else 256 newer calls have begun since
            words[entry + END] = moment
            if words[layout.WAIT] == entry:
                words[layout.WAIT] = 0
        words[layout.PROGRESS] = abs(moment)

    @property
    def activity(self) -> int:
        """When a call last began, moved on or ended, in monotonic ns: never goes back."""
        words = self._words
        head = words[layout.HEAD]
        return max(words[layout.PROGRESS], words[head + START], abs(words[head + END]))

    def operation(self, name: str) -> int:
        """The number of an operation, for `begin`."""
        number = self._names.get(name)
        if number is None:
            number = self._names[name] = self._intern(
                name.encode()[: layout.NAME_BYTES], layout.NAMES_USED, layout.NAMES,
                layout.NAME_COUNT, layout.NAME_BYTES,
            )  # fmt: skip
        return number

    def site(self, frame: FrameType) -> int:
        """The number of the place where `frame` is now, for `begin`."""
        key = id(frame.f_code), frame.f_lasti
        known = self._sites.get(key)
        if known is None:
            text = f"{frame.f_code.co_filename}:{frame.f_lineno}".encode()
            number = self._intern(
                text[-layout.SITE_BYTES :], layout.SITES_USED, layout.SITES,
                layout.SITE_COUNT, layout.SITE_BYTES,
            )  # fmt: skip
            known = self._sites[key] = number, frame.f_code  # holding on to the code keeps its id
        return known[0]

    def _intern(self, text: bytes, used: int, area: int, count: int, size: int) -> int:
        number = self._words[used] + 1
        if number >= count:
            return 0
        self._memory[area + number * size : area + number * size + len(text)] = text
        self._words[used] = number
        return number

    def open_group(
        self, identity: int, members: Sequence[int], number: int, timeout: float, watch: int
    ) -> int:
        """Describe a communicator; its slots are the result + `layout.COLLECTIVE` or MESSAGE.

        Args:
            identity: the same positive number on all ranks of the communicator.
            members: their world ranks.
            number: this rank's among them.
            timeout: seconds.
            watch: the id of the watch that looks after it; 0 for none.
        """
        if not self._free:
            return self._no_group
        return self._describe(self._free.pop(0), identity, members, number, timeout, watch)

    def close_group(self, handle: int) -> None:
        """Forget a communicator; its place is used again as late as possible."""
        if handle != self._no_group and self._words[handle] != 0:
            self._words[handle] = 0
            self._free.append(handle)

    def _describe(
        self,
        base: int,
        identity: int,
        members: Sequence[int],
        number: int,
        timeout: float,
        watch: int,
    ) -> int:
        words, size = self._words, (layout.GROUP_WORDS - layout.MEMBERS) * 8
        text = layout.ranges_text(members).encode()
        text = text.ljust(size, b"\0") if len(text) <= size else bytes(size)
        start = (base + layout.MEMBERS) * 8
        self._memory[start : start + size] = text
        words[base + layout.RANKS], words[base + layout.NUMBER] = len(members), number
        words[base + layout.TIMEOUT] = int(min(timeout, 1e9) * 1e9)
        words[base + layout.OPENED], words[base + layout.WATCH] = time.monotonic_ns(), watch
        words[base + layout.COLLECTIVE] = words[base + layout.MESSAGE] = 0
        words[base] = identity
        return base

    def close(self) -> None:
        """Say that the process came to an orderly end."""
        self._words[layout.CLOSED] = 1

    def snapshot(self) -> layout.Snapshot:
        """What the recorder holds now."""
        return layout.decode(self._memory[:])
