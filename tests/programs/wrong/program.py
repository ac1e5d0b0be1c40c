"""A wrong program, and what its ranks have to say of it."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType

from hpcpar import Communicator

__all__ = ["Program", "hangs", "named", "wrong"]

Body = Callable[[Communicator], object]
Decorator = Callable[[Body], "Program"]


@dataclass(frozen=True)
class Program:
    """Attributes: ranks, how many it is for; says, how the error of each rank begins."""

    run: Body
    ranks: int
    says: Mapping[int, str]
    kind: str

    @property
    def raises(self) -> dict[int, str]:
        """How `Kind: text` of each rank's error begins, with its lines of the program."""
        lines, first = inspect.getsourcelines(self.run)
        file = inspect.getfile(self.run)
        places = {
            found[1]: f"{file}:{first + i}"
            for i, line in enumerate(lines)
            if (found := re.search(r"# ([a-d])$", line.rstrip()))
        }
        return {rank: text.format(**places) for rank, text in self.says.items()}


def wrong(ranks: int, says: str, refused: Mapping[int, str] | None = None) -> Decorator:
    """Every rank raises MismatchError with just the sentence `says`.

    Args:
        ranks: that run the program.
        says: a line of the program that ends in `# a` is {a} in it, as file:line; a to d. A call
            has the number `#*` where those before it are not the program's own.
        refused: by rank, how its own error begins, where it is another one.
    """
    all_say = {rank: f"MismatchError: {says}" for rank in range(ranks)}
    return lambda run: Program(run, ranks, all_say | dict(refused or {}), "mismatch")


def hangs(ranks: int, says: Mapping[int, str]) -> Decorator:
    """The ranks in `says` raise HangError, which begins like that; the others come to their end."""
    begins = {rank: f"HangError: rank {rank} of {ranks} waited" for rank in says}
    whole = {rank: f"{begins[rank]} {text}" for rank, text in says.items()}
    return lambda run: Program(run, ranks, whole, "hang")


def named(module: ModuleType) -> dict[str, Program]:
    """The programs of a module by their names."""
    return {name: thing for name, thing in vars(module).items() if isinstance(thing, Program)}
