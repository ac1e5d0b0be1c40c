"""What the long form of the tests adds: `make long` sets HPCPAR_LONG=1.

The short form runs each test on some of the rank counts, the long one on all of them.
"""

import os

import pytest

__all__ = ["LONG", "only_on"]

LONG = os.environ.get("HPCPAR_LONG") == "1"


def only_on(size: int, *sizes: int) -> None:
    """Skip the test on other numbers of ranks, unless this is the long form."""
    if not LONG and size not in sizes:
        pytest.skip("on this number of ranks in the long form only (make long)")
