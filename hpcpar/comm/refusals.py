"""With `check=True`, a call that one rank refuses is told to the ranks that wait for it there."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcpar.comm.ledger import Ledger
from hpcpar.comm.request import Call, Work

if TYPE_CHECKING:
    from hpcpar.comm.communicator import Communicator

__all__ = ["tell_refusals"]

_ENDS = {"send": ("dest",), "recv": ("source",), "sendrecv": ("dest", "source")}


def tell_refusals(comm: "Communicator") -> None:
    """Give `comm` operations of its own, which tell the others when they raise before they start.

    So a communicator without a guard has nothing to do with it.
    """
    for name, method in _operations(type(comm)):
        setattr(comm, method, _telling(comm, name, getattr(comm, method)))


def _operations(kind: type) -> Iterator[tuple[str, str]]:
    """What an operation is called in errors, and its methods: the blocking one and the i- form."""
    for name in dir(kind):
        if not name.startswith("_") and hasattr(kind, f"i{name}"):
            yield name, name
            yield name, f"i{name}"
    yield from (("split", "split"), ("symmetric", "symmetric"))


def _telling(comm: "Communicator", name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(operation)

    @wraps(operation)
    def attempt(*args: object, **kwargs: object) -> Any:
        before = _started(comm)
        try:
            return operation(*args, **kwargs)
        except Exception as error:
            if _started(comm) == before and not comm._closed and comm._engine.broken is None:
                given: dict[str, Any] = {}
                with suppress(TypeError):  # the call itself is the mistake
                    given = signature.bind_partial(*args, **kwargs).arguments
                _tell(comm, name, error, given)
            raise

    return attempt


def _started(comm: "Communicator") -> int:
    """Calls until now; one that tells of a refusal is among them."""
    return sum(numbers.last for numbers in comm._numbers.values())


def _tell(comm: "Communicator", name: str, error: Exception, given: Mapping[str, Any]) -> None:
    """Take part in the comparison with the error alone, and do not wait for it."""
    failure = str(error).removeprefix(f"{name}: ") or type(error).__name__
    if name not in _ENDS:
        comm._start(name, _nothing, failure=failure)
        return
    tag = given.get("tag", 0)
    ends = {end: given[end] for end in _ENDS[name] if _is_number(given.get(end), comm.size)}
    if ends and _is_number(tag, comm._tags):
        request = comm._start(name, _nothing, kind="message", tag=int(tag), failure=failure, **ends)
        # Its other end may never come: closing must not wait for that, nor is it hung.
        request.ledger = Ledger()
        request.call.flight.recorder.give_up(request.call.entry)
        comm._engine.keep(request)


def _is_number(thing: object, limit: int) -> bool:
    return isinstance(thing, int | np.integer) and 0 <= int(thing) < limit


def _nothing(call: Call) -> Work:
    yield from ()
