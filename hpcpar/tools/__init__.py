"""Tools of the command line: python -m hpcpar TOOL ...

Each tool is a function of its own module: its arguments are its flags, its docstring is its help,
and its last argument is the communicator of the ranks that it runs on (one, without mpirun).
"""

import inspect
import os
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hpcpar.config import one_sentence
from hpcpar.errors import UserError
from hpcpar.tools.checkpoint import checkpoint
from hpcpar.tools.doctor import doctor
from hpcpar.tools.evaluate import evaluate
from hpcpar.tools.export import export
from hpcpar.tools.generate import generate
from hpcpar.tools.plan import plan
from hpcpar.tools.replay import replay

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["main"]

TOOLS: dict[str, Callable[..., None]] = {
    "checkpoint": checkpoint,
    "doctor": doctor,
    "evaluate": evaluate,
    "export": export,
    "generate": generate,
    "plan": plan,
    "replay": replay,
}
BESIDE: set[str | int] = {"comm", "settings"}  # what is no flag


def main(arguments: Sequence[str], comm: "Communicator") -> None:
    """Run the tool that the command line names; raises `UserError` for a wrong one."""
    from jsonargparse import ArgumentParser

    if comm.rank > 0:
        sys.stdout = open(os.devnull, "w")  # rank 0 speaks for all  # noqa: SIM115
    parser = ArgumentParser(prog="python -m hpcpar", exit_on_error=False)
    subcommands = parser.add_subcommands(dest="tool")
    for name, function in TOOLS.items():
        tool = ArgumentParser(exit_on_error=False)
        tool.add_function_arguments(function, skip=BESIDE, as_positional=True)
        summary = (inspect.getdoc(function) or "").splitlines()[0]
        subcommands.add_subcommand(name, tool, help=summary)
    elsewhere = "Run a program under mpirun, and start it again when it dies."
    subcommands.add_subcommand("launch", ArgumentParser(exit_on_error=False), help=elsewhere)
    own, more = list(arguments), {}
    if own and "settings" in inspect.signature(TOOLS.get(own[0], main)).parameters:
        own, more["settings"] = _apart(own)
    try:
        parsed = parser.parse_args(own)
    except ArgumentError as error:
        raise UserError(f"{one_sentence(str(error))}; see python -m hpcpar --help") from None
    TOOLS[parsed.tool](**parsed[parsed.tool].as_dict(), **more, comm=comm)


def _apart(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments of a tool; and those of training, a file and its keys, which it takes too."""
    tool, *rest = arguments
    own, settings = [tool], []
    if rest and not rest[0].startswith("-"):
        settings.append(rest.pop(0))
    flags = set(inspect.signature(TOOLS[tool]).parameters) | {"help"}
    into = own
    for word in rest:
        if word.startswith("--"):
            into = own if word[2:].partition("=")[0] in flags else settings
        into.append(word)
    return own, settings
