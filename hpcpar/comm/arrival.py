"""Waiting for all ranks before MPI's own calls make a communicator: those have no time limit."""

import time
from collections.abc import Callable

import numpy as np
from mpi4py import MPI

from hpcpar.comm.request import caller, ranks_text
from hpcpar.errors import HangError

__all__ = ["await_all"]

_TEXT = 1024  # bytes of what rank 0 says to all
_NAP = 50e-6  # seconds: nothing is timed here, and others may need the core
_ANSWER = 5.0  # seconds more for rank 0, which has waited just as long, to say who is missing


def await_all(mpi_comm: MPI.Comm, timeout: float) -> None:
    """Go on when all ranks of `mpi_comm` have come here. Collective.

    Rank 0 counts them, by the largest tag there is. Raises `HangError` after `timeout` seconds,
    with the ranks that did not come.
    """
    rank, size = mpi_comm.Get_rank(), mpi_comm.Get_size()
    tag = mpi_comm.Get_attr(MPI.TAG_UB) or 32767
    frame = caller()
    here = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    if rank:
        mpi_comm.Isend((None, 0, MPI.BYTE), 0, tag).Free()
        text = np.zeros(_TEXT, np.uint8)
        answer = mpi_comm.Irecv(text, 0, tag)
        if not _within(timeout + _ANSWER, answer.Test):
            answer.Cancel()
            told = f"rank {rank} of {size} waited {timeout:g} s at {here} to make a communicator: "
            told += "rank 0, which counts who comes, has not answered"
            raise HangError(told, told)
        if text.any():
            raise HangError(text.tobytes().rstrip(b"\0").decode(errors="replace"))
        return

    arriving = [mpi_comm.Irecv((None, 0, MPI.BYTE), peer, tag) for peer in range(1, size)]
    missing = {peer: arriving[peer - 1] for peer in range(1, size)}

    def all_here() -> bool:
        for peer in [peer for peer, request in missing.items() if request.Test()]:
            del missing[peer]
        return not missing

    problem = ""
    if not _within(timeout, all_here):
        problem = _story(f"rank 0 of {size}", timeout, here, sorted(missing))
        for request in missing.values():
            request.Cancel()
    text = np.frombuffer(problem.encode()[:_TEXT].ljust(_TEXT, b"\0"), np.uint8)
    answers = [mpi_comm.Isend(text, peer, tag) for peer in set(range(1, size)) - set(missing)]
    if not _within(_ANSWER, lambda: all([answer.Test() for answer in answers])) and not problem:
        raise HangError(f"rank 0 of {size} could not answer all ranks at {here} in {_ANSWER:g} s")
    if problem:
        raise HangError(problem, problem)


def _within(seconds: float, done: Callable[[], bool]) -> bool:
    limit = time.monotonic() + seconds
    while not done():
        if time.monotonic() > limit:
            return False
        time.sleep(_NAP)
    return True


def _story(who: str, timeout: float, here: str, missing: list[int]) -> str:
    verb = "has" if len(missing) == 1 else "have"
    return (
        f"{who} waited {timeout:g} s at {here} to make a communicator: "
        f"{ranks_text(missing)} {verb} not come"
    )
