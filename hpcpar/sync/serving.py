"""Servers and workers over MPI: letters come and go, until the workers need no server any more."""

import contextlib
import time
from collections.abc import Callable, Collection
from typing import Any

from hpcpar.comm.mailbox import Mailbox
from hpcpar.comm.request import ranks_text
from hpcpar.errors import HangError, LostRankError, StoppedError, UserError
from hpcpar.sync.roles import Roles
from hpcpar.sync.server import Server
from hpcpar.sync.worker import Waiting, Worker

__all__ = ["dismiss", "drive", "serve"]

LOOK = 0.5  # seconds between two looks for lost ranks while nothing comes


def serve(server: Server, mailbox: Mailbox, roles: Roles, timeout: float) -> None:
    """Do what letters ask for, until all workers have said that they are at their end.

    Raises `UserError` where an update could not be made, which all workers are told, or what they
    have told of theirs (`dismiss`); `LostRankError` where a worker is gone; `StoppedError` where
    they have stopped; and `HangError` where nothing comes for `timeout` seconds though others wait.
    """
    everybody, heard = set(range(roles.workers)), time.monotonic()
    while not server.ended >= everybody:
        letter = mailbox.wait(LOOK)
        server.learn(mailbox.lost)
        _look_for(everybody - server.ended, mailbox.lost)
        if letter is None and time.monotonic() - heard > timeout and server.missing:
            raise _hang(server, mailbox, roles, timeout)
        if letter is not None:
            heard = time.monotonic()
            if letter.words["kind"] == "fail":
                raise UserError(letter.words["why"])
            try:
                server.hear(*letter)
            except UserError as error:
                for worker in everybody:
                    mailbox.post(worker, {"kind": "fail", "why": str(error)})
                mailbox.flush()
                raise
    mailbox.flush()
    if server.stopped:
        raise StoppedError("the workers have stopped")


def dismiss(mailbox: Mailbox, roles: Roles, why: str) -> None:
    """Servers end, with what has gone wrong on the workers: no letter would come any more."""
    for server in range(roles.servers):
        mailbox.post(roles.rank(server), {"kind": "fail", "why": why})
    with contextlib.suppress(HangError):  # they may be at their end, by the same mistake
        mailbox.flush()


def drive(
    worker: Worker, mailbox: Mailbox, waiting: Waiting, timeout: float, advance: Callable[[], Any]
) -> Any:
    """Give a worker the letters that it waits for; what it returns.

    Raises `HangError` where none comes for `timeout` seconds, `LostRankError` where another worker
    is gone, and the `UserError` that servers tell.

    Args:
        advance: called whenever it is woken, for what else is under way.
    """
    workers = range(worker.servers.start)
    try:
        wanted, heard = waiting.send(None), time.monotonic()
        while True:
            letter = mailbox.wait(LOOK)
            advance()
            worker.learn([rank for rank in mailbox.lost if rank in worker.servers])
            _look_for(workers, mailbox.lost)
            if letter is not None:
                heard = time.monotonic()
                wanted = waiting.send(letter)
            elif time.monotonic() - heard > timeout:
                raise HangError(
                    f"rank {mailbox.rank} waited {timeout:g} s for {ranks_text(wanted)} to answer"
                )
    except StopIteration as end:
        return end.value


def _hang(server: Server, mailbox: Mailbox, roles: Roles, timeout: float) -> HangError:
    """Of workers that push nothing; the first server that is left tells it for all."""
    first = min(rank for rank in map(roles.rank, range(roles.servers)) if rank not in mailbox.lost)
    text = f"{ranks_text(sorted(server.missing))} pushed nothing for {timeout:g} s: others wait"
    return HangError(text, text if mailbox.rank == first else "")


def _look_for(workers: Collection[int], lost: Collection[int]) -> None:
    if gone := sorted(set(workers) & set(lost)):
        raise LostRankError(
            f"{ranks_text(gone)} {'was' if len(gone) == 1 else 'were'} lost: workers are not "
            "replaced; start again from the newest checkpoint"
        )
