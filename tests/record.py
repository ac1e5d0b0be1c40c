"""A pytest plugin that writes what happened, a JSON line an event, for tests/run.py to judge.

A line is written when its event happens, so that a rank that was killed says where it was.
"""

import json
import time
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Record"]


class Record:
    """Events: collected, start, end (outcome, seconds, reason, text of a failure), finish."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("w", buffering=1)
        self.skipped: list[tuple[str, str]] = []
        self.end: dict[str, Any] = {}
        self.began = time.monotonic()

    def _write(self, event: str, **fields: Any) -> None:
        self.file.write(json.dumps({"event": event, **fields}) + "\n")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:  # a whole module: pytest.importorskip or skip(allow_module_level=True)
            self.skipped.append((report.nodeid, _reason(report)))
        elif report.failed:
            self._write("end", test=report.nodeid, outcome="failed", text=report.longreprtext)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        tests = {
            item.nodeid: {
                "markers": sorted({mark.name for mark in item.iter_markers()}),
                "min_size": max(
                    (mark.kwargs.get("min_size") or 1 for mark in item.iter_markers("mpi")),
                    default=1,
                ),
            }
            for item in session.items
        }
        self._write("collected", tests=tests, skipped=self.skipped)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.end = {"test": nodeid, "outcome": "passed"}
        self.began = time.monotonic()
        self._write("start", test=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.end |= {"outcome": "failed"}
            self.end["text"] = self.end.get("text", "") + f"{report.when}:\n{report.longreprtext}\n"
        elif report.skipped and self.end["outcome"] == "passed":
            self.end |= {"outcome": "skipped", "reason": _reason(report)}

    def pytest_runtest_logfinish(self) -> None:
        self._write("end", **self.end, seconds=round(time.monotonic() - self.began, 3))

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        why = session.shouldfail or session.shouldstop
        self._write("finish", status=int(exitstatus), stopped=str(why) if why else "")


def _reason(report: pytest.CollectReport | pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return f"expected failure: {getattr(report, 'wasxfail', '')}"
