"""One verdict: what goes wrong on one rank is said by all, and nobody is left waiting."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from hpcpar.errors import HangError, UserError

if TYPE_CHECKING:
    from hpcpar.comm.communicator import Communicator

__all__ = ["agree", "together"]


def agree(comm: "Communicator", error: str | None) -> list[str | None]:
    """Every rank's `error`, in the order of the ranks, on all ranks; None where all was well."""
    text = b"" if error is None else error.encode()
    mine = np.array([-1 if error is None else len(text)], np.int64)
    lengths = [int(n) for n in comm.allgather(mine)]  # a size for each rank, -1 for no error
    if max(lengths) < 0:
        return [None] * comm.size
    joined = comm.allgather(np.frombuffer(text, np.uint8)).tobytes()
    errors: list[str | None] = []
    start = 0
    for length in lengths:
        stop = start + max(length, 0)
        errors.append(None if length < 0 else joined[start:stop].decode())
        start = stop
    return errors


@contextmanager
def together(comm: "Communicator") -> Iterator[None]:
    """Do something that may fail on some ranks, and fail on all of them if it did.

    >>> with together(comm):
    ...     text = open(path).read()         # no collective calls in here

    A `UserError` is raised on every rank with the message of the lowest rank that failed, which is
    named unless it is rank 0. Any other exception goes on where it was raised, and the other ranks
    raise RuntimeError with its text. A `HangError` is not shared: the ranks are out of step then.
    Collective.
    """
    failure: Exception | None = None
    try:
        yield
    except HangError:
        raise
    except Exception as error:
        failure = error
    words = None
    if failure is not None:
        kind = "" if isinstance(failure, UserError) else f"{type(failure).__name__}: "
        words = f"{'user' if kind == '' else 'other'}:{kind}{failure}"
    errors = agree(comm, words)
    failed = [rank for rank, text in enumerate(errors) if text is not None]
    if failure is not None and not isinstance(failure, UserError):
        raise failure
    if failed:
        kind, _, text = (errors[failed[0]] or "").partition(":")
        if failed[0] > 0:  # rank 0 speaks for all, also where it alone does something
            text = f"rank {failed[0]}: {text}"
        raise (UserError if kind == "user" else RuntimeError)(text) from failure
