"""The command line of launch, and what it has to know of the program's."""

import argparse
import shutil
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hpcpar.errors import UserError

__all__ = ["Arguments", "parse", "setting"]

USAGE = "python -m hpcpar launch -n RANKS [options] [-- mpirun options] -- PROGRAM ..."


@dataclass(frozen=True)
class Arguments:
    """Attributes: see --help; options, of mpirun; program, words that name a --run.dir, `folder`;
    hosts, slots by name.
    """

    ranks: int
    restarts: int
    min_ranks: int
    start_limit: float
    hosts: Mapping[str, int]
    options: tuple[str, ...]
    program: tuple[str, ...]
    folder: Path


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; usage: {USAGE}")


def parse(words: Sequence[str], path: str) -> Arguments:
    """Raises `UserError` for what cannot be run; SystemExit after printing the help text.

    Args:
        path: where programs are looked for.
    """
    parser = _Parser(prog="python -m hpcpar launch", usage=USAGE, description=_DESCRIPTION)
    parser.add_argument("-n", type=int, required=True, metavar="RANKS", help="ranks to start with")
    parser.add_argument(
        "--restarts", type=int, default=5, metavar="K",
        help="restarts in a row that bring no new step, at most; default 5",
    )  # fmt: skip
    parser.add_argument(
        "--min-ranks", type=int, default=1, metavar="N", help="never go on with fewer; default 1"
    )
    parser.add_argument(
        "--hosts", default="", metavar="A:4,B:4", help="hosts, each with the ranks it takes"
    )
    parser.add_argument(
        "--start-limit", type=float, default=300, metavar="S",
        help="seconds before a job that has said nothing yet counts as hung; default 300",
    )  # fmt: skip
    own, options, program = _split(words)
    given = parser.parse_args(own)
    for name, least in (("n", 1), ("restarts", 0), ("min_ranks", 1), ("start_limit", 1)):
        if not getattr(given, name) >= least:
            flag = "-n" if name == "n" else f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} is {getattr(given, name):g}; it must be at least {least}")
    if given.min_ranks > given.n:
        raise UserError(f"--min-ranks is {given.min_ranks}; with -n {given.n} it must not be above")
    if not program:
        raise UserError(f"there is no program to launch; usage: {USAGE}")
    if not shutil.which(program[0], path=path):
        raise UserError(f"the program {program[0]} is not there, or cannot be run")
    folder = setting(program, "run.dir") or time.strftime("runs/%Y-%m-%d-%H%M%S")
    named = () if _flag(program, "run.dir") else ("--run.dir", folder)
    return Arguments(
        given.n, given.restarts, given.min_ranks, given.start_limit, _hosts(given.hosts),
        tuple(options), (*program, *named), Path(folder),
    )  # fmt: skip


def setting(program: Sequence[str], key: str) -> str:
    """What a program's command line sets a key of training to, or else its file; "" for nothing."""
    value: Any = _flag(program, key)
    for path in [Path(word) for word in program if word.endswith(".toml")] if not value else []:
        try:
            value = tomllib.loads(path.read_text())
            for name in key.split("."):
                value = value[name]
        except (OSError, ValueError, KeyError, TypeError):
            value = ""  # the program says what is wrong with it
    return str(value)


def _flag(program: Sequence[str], key: str) -> str:
    value = ""
    for word, following in zip(program, [*program[1:], ""], strict=True):
        if word == f"--{key}":
            value = following
        elif word.startswith(f"--{key}="):
            value = word.partition("=")[2]
    return value


def _split(words: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Own words, those of mpirun, those of the program."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "--" and len(parts) < 3:
            parts.append([])
        else:
            parts[-1].append(word)
    if len(parts) < 3:
        parts.insert(1, [])
    return parts[0], parts[1], parts[2] if len(parts) > 2 else []


def _hosts(text: str) -> dict[str, int]:
    hosts: dict[str, int] = {}
    for word in text.split(",") if text else []:
        name, _, slots = word.partition(":")
        if not name or not (slots or "1").isdigit() or int(slots or "1") < 1:
            raise UserError(f"--hosts takes names with numbers of ranks, as in a:4,b:4, not {text}")
        hosts[name] = hosts.get(name, 0) + int(slots or "1")
    return hosts


_DESCRIPTION = """Run a program under mpirun, and start it again when it dies. Training goes on from
its newest checkpoint then, on fewer ranks or hosts if need be. Ctrl-C, SIGTERM, SIGUSR1 and SIGUSR2
let it save; the status is 75 then, and otherwise that of the last job, or 3 when restarts are used
up."""
