"""Tools of the command line: python -m hpcpar TOOL ...

Each tool is a function of its own module, which is loaded when it is used: its arguments are its
flags, its docstring is its help, and its last argument is the communicator of the ranks that it
runs on (one, without mpirun). Those in ALONE have none, and start no MPI.
"""

import inspect
import json
import os
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from hpcpar.errors import UserError, one_sentence

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["ALONE", "main"]

TOOLS = (
    "checkpoint",
    "doctor",
    "evaluate",
    "export",
    "generate",
    "monitor",
    "plan",
    "replay",
    "skew",
)
ALONE = ("monitor",)
BESIDE: set[str | int] = {"comm", "settings"}  # what is no flag


def main(arguments: Sequence[str], comm: "Communicator | None") -> None:
    """Run the tool that the command line names; raises `UserError` for a wrong one.

    `comm` may be None for a tool that is in ALONE.
    """
    from jsonargparse import ArgumentParser

    if comm is not None and comm.rank > 0:
        sys.stdout = open(os.devnull, "w")  # rank 0 speaks for all  # noqa: SIM115
    parser = ArgumentParser(prog="python -m hpcpar", exit_on_error=False)
    subcommands = parser.add_subcommands(dest="tool")
    named = arguments[:1] if arguments and arguments[0] in TOOLS else TOOLS
    functions = {name: _load(name) for name in named}
    for name, function in functions.items():
        tool = ArgumentParser(exit_on_error=False)
        tool.add_function_arguments(function, skip=BESIDE, as_positional=True)
        summary = (inspect.getdoc(function) or "").splitlines()[0]
        subcommands.add_subcommand(name, tool, help=summary)
    elsewhere = "Run a program under mpirun, and start it again when it dies."
    subcommands.add_subcommand("launch", ArgumentParser(exit_on_error=False), help=elsewhere)
    own, more = list(arguments), dict[str, object]()
    if own and "settings" in inspect.signature(functions.get(own[0], main)).parameters:
        own, more["settings"] = _apart(own, functions[own[0]])
    try:
        parsed = parser.parse_args(_spelled_out(own, functions))
    except ArgumentError as error:
        raise UserError(f"{one_sentence(str(error))}; see python -m hpcpar --help") from None
    if parsed.tool not in ALONE:
        more["comm"] = comm
    functions[parsed.tool](**parsed[parsed.tool].as_dict(), **more)


def _load(tool: str) -> Callable[..., None]:
    function: Callable[..., None] = getattr(import_module(f"hpcpar.tools.{tool}"), tool)
    return function


def _spelled_out(arguments: Sequence[str], functions: dict[str, Callable[..., None]]) -> list[str]:
    """`--flag` alone as `--flag true`, where the tool's flag is that; and a tool's `paths`, all
    words before its flags, as the JSON list that the parser takes.
    """
    words, known = list(arguments), inspect.signature(functions.get("".join(arguments[:1]), main))
    flags = {f"--{name}" for name, p in known.parameters.items() if p.annotation is bool}
    for place in reversed([place for place, word in enumerate(words) if word in flags]):
        if words[place + 1 : place + 2] not in (["true"], ["false"]):
            words.insert(place + 1, "true")
    if "paths" in known.parameters:
        end = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
        words[1:end] = ["--paths", json.dumps(words[1:end])]
    return words


def _apart(arguments: Sequence[str], function: Callable[..., None]) -> tuple[list[str], list[str]]:
    """The arguments of a tool; and those of training, a file and its keys, which it takes too."""
    tool, *rest = arguments
    own, settings = [tool], []
    if rest and not rest[0].startswith("-"):
        settings.append(rest.pop(0))
    flags = set(inspect.signature(function).parameters) | {"help"}
    into = own
    for word in rest:
        if word.startswith("--"):
            into = own if word[2:].partition("=")[0] in flags else settings
        into.append(word)
    return own, settings
