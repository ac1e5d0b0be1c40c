"""What a test opens, removes, renames or runs, as Python itself tells of it (PEP 578)."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

__all__ = ["TOUCHED", "listening"]

EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "os.scandir")
RUNS = ("exec", "subprocess", "os.exec", "os.system", "pickle")
TOUCHED: list[str] = []  # paths, while a test listens
HOOKED: list[bool] = []


def hook(event: str, arguments: tuple[object, ...]) -> None:
    if TOUCHED and event in EVENTS and isinstance(arguments[0], str | bytes | Path):
        TOUCHED.append(str(arguments[0]))
    elif TOUCHED and event.startswith(RUNS):
        TOUCHED.append(event)


@pytest.fixture
def listening() -> Iterator[Callable[[], list[str]]]:
    """What the test touches; Python's own modules, which it may load late, are not told."""
    if not HOOKED:
        sys.addaudithook(hook)  # for good: it hears nothing when nobody listens
        HOOKED.append(True)
    TOUCHED.append("")
    own = sys.prefix, sys.base_prefix
    yield lambda: [path for path in TOUCHED[1:] if not path.startswith(own)]
    TOUCHED.clear()
