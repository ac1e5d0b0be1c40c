"""The watcher: one small process a node, which looks at the ranks' recorders from outside.

It is no MPI process and imports nothing but the standard library, so it works on whatever state the
ranks are in. The watchers of a job form a star: the head, on the node of the lowest rank, collects
the rows of all ranks, prints the table and the sentence, and has the ranks ended. A watcher that
has lost the head acts alone. Each ends as soon as the ranks of its node are gone.
"""

import contextlib
import json
import math
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpcpar.apart.links import MALFORMED, Line, Message, peer
from hpcpar.comm.flight.beats import Beats, suspects
from hpcpar.comm.flight.folder import sweep
from hpcpar.comm.flight.layout import read_ranges
from hpcpar.comm.flight.node import LocalRank, Node, end_launchers
from hpcpar.comm.flight.rows import Row, missing_row, to_json
from hpcpar.comm.flight.star import Star, reach
from hpcpar.comm.flight.story import Story
from hpcpar.comm.flight.table import table
from hpcpar.comm.flight.verdict import Key, find_call, verdict
from hpcpar.comm.flight.words import rank_names

__all__ = ["Watcher", "main"]

POLL = 0.25  # seconds between two looks at the recorders
TELL = 2.0  # seconds for ranks to say why they end
START_LIMIT = 3.0  # seconds for ranks to come


class Watcher:
    """Args: what `start_watcher` has written on the standard input."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.folder = Path(config["folder"]) if config["folder"] else None
        self.everybody = read_ranges(config["everybody"])
        self.node = Node(dict(config["ranks"]), config["watch"])
        self.number: int = config["node"]
        self.token: str = config["token"]
        self.selector = selectors.EpollSelector()
        self.newcomers = socket.socket(fileno=config["rank_socket"])
        door = config["head_socket"]
        door = None if door is None else socket.socket(fileno=door)
        self.star = Star(self.token, door, config["others"])
        self.selector.register(self.star.selector, selectors.EVENT_READ, lambda _: self.star.turn())
        self.head: Line | None = None  # the line to the head, where that is another watcher
        self.head_at = config["head"]
        self.asked: dict[int, Line] = {}  # ranks that wait for an answer of the head
        self.story: Story | None = None  # the last one
        self.wrong = False
        self.recovers = False  # ranks go on without those that are lost
        self.beats = Beats(self.node)
        self.doom = math.inf  # when all ranks are ended
        self.born = time.monotonic()

    def run(self) -> None:
        """Watch until the ranks are gone."""
        self._greet_all()
        if self.star.door is None and self.head_at:
            self.head = reach(self.token, self.number, *self.head_at)
            if self.head is not None:
                self.selector.register(self.head, selectors.EVENT_READ, self._hear_head)
        looked, swept = time.monotonic(), False
        while not self.node.over(time.monotonic() - self.born):
            for key, _ in self.selector.select(POLL):
                key.data(key.fileobj)
            while self.star.heard:
                self._sort(self._hear_node, *self.star.heard.pop(0))
            now = time.monotonic()
            if now > self.doom:
                self.doom = math.inf
                self.star.end()
                self.node.end(self.recovers)
            if now - looked >= POLL:
                # Time in which this process did not run either is not counted as anybody's wait.
                self._look(min(now - looked, 2 * POLL))
                looked = now
            if self.folder is not None and not swept and now - self.born > 1:
                sweep(self.folder.parent)
                swept = True
        if self.wrong:
            os.close(2)  # of which the launcher waits for the end
            end_launchers({rank.parent for rank in self.node.ranks.values()})
        elif self.node.all_left:
            self.node.remove_files()

    # Ranks of this node.

    def _greet_all(self) -> None:
        """Wait for the ranks, which are all on their way."""
        self.newcomers.settimeout(0.1)
        while time.monotonic() - self.born < START_LIMIT and self.node.expects_more():
            self._greet_rank(self.newcomers)
        self.selector.register(self.newcomers, selectors.EVENT_READ, self._greet_rank)

    def _greet_rank(self, _: object) -> None:
        try:
            connection, _ = self.newcomers.accept()
        except OSError:
            return
        pid, user = peer(connection)
        line = Line(connection)
        try:
            if user != os.getuid():
                raise ValueError
            (hello, *_), descriptors = line.receive_first(2)
            rank = LocalRank(hello, pid, line, descriptors)
        except (EOFError, OSError, ValueError, LookupError):
            line.close()
            return
        self.node.ranks[rank.rank] = rank
        self.selector.register(line, selectors.EVENT_READ, lambda _: self._hear_rank(rank))
        if not rank.gone:
            self.selector.register(rank.process, selectors.EVENT_READ, lambda _: self._lose(rank))

    def _hear_rank(self, rank: LocalRank) -> None:
        try:
            messages = rank.line.receive()
        except EOFError:
            self.selector.unregister(rank.line)  # its process is watched by itself
            return
        for message in messages:
            self._sort(self._obey, rank, message)

    def _obey(self, rank: LocalRank, message: Message) -> None:
        if "recovers" in message:
            self.recovers = True
        elif "end" in message:
            self._doom()
        elif "bye" in message:
            rank.left = True
            self.wrong |= bool(message["bye"])
        elif "ask" in message:
            rank.restart_clock()  # it looks after itself
            self._ask(rank, _key(message["ask"]))

    def _sort(self, hear: Callable[[Any, Message], None], line: Any, message: Message) -> None:
        """Hear a message, or drop one that makes no sense."""
        try:
            hear(line, message)
        except MALFORMED:
            self.star.dropped += 1

    def _lose(self, rank: LocalRank) -> None:
        rank.gone = True
        self.selector.unregister(rank.process)

    def _look(self, elapsed: float) -> None:
        for stopped in self.beats.look(elapsed) if self.recovers else []:
            self._say(f"rank {stopped.rank} was stopped by a signal: it is killed, and lost")
            stopped.signal(signal.SIGKILL)
        found = self.node.hung(elapsed)
        if found is None:
            return
        rank, key = found
        if self.head is not None and rank.told == 1:
            self.head.offer({"hang": key, "rank": rank.rank})
        else:
            self._end_hang(rank.rank, key)

    def _ask(self, rank: LocalRank, key: Key) -> None:
        if self.head is not None and self.head.offer({"ask": key, "rank": rank.rank}):
            self.asked[rank.rank] = rank.line
        else:
            rank.line.offer(self._story(rank.rank, key))

    # Other nodes.

    def _hear_node(self, line: Line, message: Message) -> None:
        if "hang" in message:
            self._end_hang(message["rank"], _key(message["hang"]))
        elif "ask" in message:
            rank = message["rank"]
            line.offer({**self._story(rank, _key(message["ask"])), "rank": rank})

    def _hear_head(self, line: Any) -> None:
        try:
            messages = line.receive()
        except EOFError:
            self.selector.unregister(line)
            self.head = None
            return
        for message in messages:
            self._sort(self._follow, line, message)

    def _follow(self, line: Line, message: Message) -> None:
        """What the head says."""
        if "collect" in message:
            rows = [to_json(row) for row in self.node.rows()]
            line.offer({"rows": rows, "number": message["collect"]})
        elif "kill" in message:
            self.node.kill(message["kill"])
        elif "end" in message:
            self.wrong = True
            self.node.end(self.recovers)
        elif "sentence" in message and message["rank"] in self.asked:
            self.asked.pop(message["rank"]).offer(message)

    # What only the head does, or one that is alone.

    def _rows(self) -> list[Row]:
        """The rows of all ranks of the job, as far as they can be had."""
        asked = self.star.ask_for_rows()
        here = self.node.rows()  # while the others look at theirs
        rows = {row.rank: row for row in [*here, *self.star.rows(asked)]}
        return [rows.get(rank) or missing_row(rank) for rank in self.everybody]

    def _story(self, rank: int, key: Key) -> Message:
        """Sentence and table for a rank that waited in vain; ranks of one hang get the same."""
        story = self.story
        if story is None or not story.tells(rank, key):
            rows = self._rows()
            story = self.story = Story(key, rows, verdict(rows, (rank, key)), table(rows))
            if self.recovers:
                self._kill_hung(story, suspects(rows))
            return story.message(key, first=True)
        return story.message(key, first=False)

    def _kill_hung(self, story: Story, hung: list[int]) -> None:
        """The ranks to blame, or all where nobody can be: the launcher would leave some alive."""
        if not hung:
            self._doom()
            return
        story.killed = hung
        self._say(f"{story.sentence}; {rank_names(hung)} is killed, and lost")
        self.star.kill(hung)
        self.node.kill(hung)

    def _doom(self) -> None:
        """All ranks are ended, after they have said why."""
        self.doom, self.wrong = time.monotonic() + TELL, True

    def _end_hang(self, rank: int, key: Key) -> None:
        """Say what is wrong, once, and end the job, unless the rank has come out meanwhile."""
        if self.wrong:
            return
        rows = self._rows()
        row = next((row for row in rows if row.rank == rank), None)
        call = find_call(row, key) if row is not None else None
        if row is None or call is None or call is not row.call:
            return
        self.wrong = True
        text = f"hpcpar: {verdict(rows, None)}\n\n{table(rows)}\n\n"
        if self.folder is not None:
            text += f"The job is ended. Again: python -m hpcpar doctor --flight {self.folder}\n"
        with contextlib.suppress(OSError):
            os.write(2, text.encode())
        if self.folder is not None:  # standard error may be anywhere
            with contextlib.suppress(OSError):
                (self.folder / "hang.txt").write_text(text)
        self.star.end()
        self.node.end(self.recovers)

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(2, f"hpcpar: {text}\n".encode())


def _key(fields: list[Any]) -> Key:
    group, kind, number = fields
    return group, kind, number


def main() -> None:
    """Run a watcher by what stands on the standard input."""
    config = json.loads(sys.stdin.buffer.read())
    os.chdir("/")
    Watcher(config).run()
