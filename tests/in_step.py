"""A pytest plugin that keeps the ranks of a launch in step.

Where a test fails on some ranks only, the others may still wait for a message that never comes, or
take one that was meant for the test before. So ranks agree after each test: all passed, go on; all
failed, go on; some failed, all stop here.
"""

import os
import time
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest

__all__ = ["InStep"]


class InStep:
    def __init__(self, mpi_comm: Any) -> None:
        self.comm = mpi_comm.Dup()  # what tests leave behind on theirs cannot be met here
        self.failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed |= report.failed

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self.failed = False
        result = yield
        failed = self._count_failed(item)
        if 0 < failed < self.comm.Get_size():
            here = "this one too" if self.failed else "not on this one"
            item.session.shouldfail = f"{item.nodeid} failed on {failed} ranks, {here}"
        return result

    def _count_failed(self, item: pytest.Item) -> int:
        mine, total = np.array([self.failed], np.int32), np.zeros(1, np.int32)
        request = self.comm.Iallreduce(mine, total)
        # A rank whose test is over time ends the launch by itself: that is waited for.
        deadline = time.monotonic() + _limit(item) + 10
        while not request.Test():
            if time.monotonic() > deadline:
                rank = self.comm.Get_rank()
                os.write(2, f"rank {rank}: others did not end {item.nodeid}\n".encode())
                os._exit(1)
            time.sleep(0.0005)
        return int(total[0])


def _limit(item: pytest.Item) -> float:
    mark = item.get_closest_marker("timeout")
    if mark is None:
        return float(item.config.getini("timeout"))
    return float(mark.args[0] if mark.args else mark.kwargs["timeout"])
