"""The errors that a person at the prompt is meant to read."""

import ast

__all__ = [
    "EXIT_HANG", "EXIT_REQUEUE", "EXIT_USER", "AuditError", "HangError", "LostRankError",
    "MismatchError", "StoppedError", "UserError", "one_sentence",
]  # fmt: skip

_TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}

EXIT_USER = 2
EXIT_HANG = 3
EXIT_REQUEUE = 75  # EX_TEMPFAIL of sysexits.h


class UserError(ValueError):
    """A mistake in the input: one sentence that says what, where and what to do (exit status 2)."""


class HangError(RuntimeError):
    """A wait that outlasted its limit, with this rank, the call and its peers (exit status 3).

    Attributes: `story`, one sentence on who is missing where and a table with a row a rank, for the
    one rank that is to print it; "" on the others.
    """

    def __init__(self, message: str, story: str = "") -> None:
        super().__init__(message)
        self.story = story


class LostRankError(RuntimeError):
    """A rank is gone. Every rank that is left has it raised, in its next wait for others.

    All that was under way has failed, and the communicator cannot be used again (exit status 3).
    """


class StoppedError(RuntimeError):
    """A run was asked to stop, and has saved its last step (exit status 75). On all ranks alike."""


class MismatchError(ValueError):
    """The ranks' calls do not fit together. Every rank that has come to them raises the same."""


class AuditError(RuntimeError):
    """A gradient that was computed twice has not the same bits (exit status 3).

    Every rank raises the same, before the update: the gradient of this step must not be used.

    Attributes: ranks, of MPI_COMM_WORLD: those that computed it wrongly, or one of which did, where
    that cannot be told; step; leaf; lasting, whether it was wrong when it was computed once more.
    """

    def __init__(
        self, message: str, ranks: tuple[int, ...], step: int, leaf: int, lasting: bool
    ) -> None:
        super().__init__(message)
        self.ranks, self.step, self.leaf, self.lasting = ranks, step, leaf, lasting


def one_sentence(message: str) -> str:
    """jsonargparse's message in the words of this package: the key, what it takes, what it got."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    key = lines[0].partition('Parser key "')[2].partition('"')[0]
    if not key or len(lines) < 2:
        return " ".join(lines)
    expected, _, got = lines[1].partition(". Got value:")
    expected = expected.removeprefix("Expected a ").removeprefix("<class '").removesuffix("'>")
    if expected.startswith("typing.Literal"):
        *most, last = map(str, ast.literal_eval(expected.removeprefix("typing.Literal")))
        expected = f"{', '.join(most)} or {last}" if most else last
    expected = expected.replace("tuple with", "a list of")
    return f"--{key} takes {_TYPES.get(expected, expected)}, not {got.strip() or 'nothing'}"
