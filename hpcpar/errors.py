"""The two errors a person at the prompt is meant to read."""

__all__ = ["EXIT_HANG", "EXIT_USER", "HangError", "UserError"]

EXIT_USER = 2
EXIT_HANG = 3


class UserError(ValueError):
    """A mistake in the input: one sentence that says what, where and what to do (exit status 2)."""


class HangError(RuntimeError):
    """A wait that outlasted its limit, with this rank, the call and its peers (exit status 3)."""
