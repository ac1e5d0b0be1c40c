"""From the records of a launch's ranks to a verdict: what passed, failed, or does not add up."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Verdict", "collected", "excused", "judge", "never_ran", "read_record"]

NEEDS = {"gpu", "peers", "slurm"}  # markers of tests that a machine may be unable to run
# A module that skips itself is skipped before its markers are known; then the reason tells.
MODULES = {"cupy": "gpu", "torch": "peers", "transformers": "peers"}

Tests = dict[str, dict]  # name -> markers, min_size


@dataclass
class Verdict:
    """One row of the table, and what to say below it."""

    launch: str
    ranks: int
    seconds: float = 0.0
    passed: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    skipped: dict[str, str] = field(default_factory=dict)  # name -> reason
    failures: list[str] = field(default_factory=list)  # texts of failed tests
    problems: list[str] = field(default_factory=list)  # what is wrong with the launch as a whole
    tests: Tests = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)  # name -> seconds on rank 0

    @property
    def good(self) -> bool:
        return not self.failed and not self.problems


def read_record(path: Path) -> list[dict]:
    """The events of a rank; none if it did not come to write any."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def collected(record: list[dict]) -> Tests:
    """The tests a rank found, with those modules that skipped themselves."""
    for event in record:
        if event["event"] == "collected":
            modules = {
                name: {"markers": _markers(reason), "min_size": 1, "reason": reason}
                for name, reason in event["skipped"]
            }
            return event["tests"] | modules
    return {}


def judge(verdict: Verdict, folder: Path, expected: Tests | None = None) -> Verdict:
    """Fill in a verdict from FOLDER/rankN.jsonl of all ranks.

    `expected` holds the tests that a rank must have found, from a collection of its own; without
    it the first rank's are taken. Every rank must have found the same tests and come to its end,
    and a test must have run on all ranks or on none.
    """
    records = [read_record(folder / f"rank{rank}.jsonl") for rank in range(verdict.ranks)]
    verdict.tests = expected if expected is not None else collected(records[0])
    verdict.skipped = {
        name: about["reason"] for name, about in verdict.tests.items() if "reason" in about
    }
    ends: dict[str, dict[int, dict]] = defaultdict(dict)  # test -> rank -> event
    for rank, record in enumerate(records):
        verdict.problems += _check_rank(verdict, rank, record)
        for event in record:
            if event["event"] == "end":
                ends[event["test"]][rank] = event
    for name, by_rank in ends.items():
        verdict.times[name] = by_rank.get(0, {}).get("seconds", 0.0)
        _judge_test(verdict, name, by_rank)
    if not verdict.passed | verdict.failed | verdict.skipped.keys():
        verdict.problems.append("no test was found")
    return verdict


def _judge_test(verdict: Verdict, name: str, ends: dict[int, dict]) -> None:
    outcomes = {event["outcome"] for event in ends.values()}
    if "failed" in outcomes:
        verdict.failed.add(name)
        texts: dict[str, list[int]] = defaultdict(list)
        for rank, event in ends.items():
            if event["outcome"] == "failed":
                texts[event.get("text", "")].append(rank)
        for text, ranks in texts.items():
            verdict.failures.append(f"{name} ({_on_ranks(ranks, verdict.ranks)})\n{text}")
    elif outcomes == {"skipped"}:
        verdict.skipped[name] = next(iter(ends.values()))["reason"]
    elif outcomes == {"passed", "skipped"}:
        verdict.problems.append(f"{name} ran on some ranks and was skipped on others")
    elif len(ends) == verdict.ranks:  # where a rank did not come to its end, that is the problem
        verdict.passed.add(name)


def never_ran(verdicts: Iterable[Verdict]) -> dict[str, str]:
    """The tests that were skipped in every launch, with a reason of each."""
    verdicts = list(verdicts)
    ran = {name for verdict in verdicts for name in verdict.passed | verdict.failed}
    skips = {name: why for verdict in verdicts for name, why in verdict.skipped.items()}
    return {name: why for name, why in skips.items() if name not in ran}


def excused(markers: Iterable[str], required: set[str]) -> bool:
    """Whether a test with these markers may be skipped: for lack of something not required."""
    needs = NEEDS & set(markers)
    return bool(needs) and not needs & required


def _markers(reason: str) -> list[str]:
    return sorted({marker for module, marker in MODULES.items() if f"'{module}" in reason})


def _check_rank(verdict: Verdict, rank: int, record: list[dict]) -> list[str]:
    """What is wrong with the course of one rank."""
    name = f"rank {rank}" if verdict.ranks > 1 else "pytest"
    if not record:
        return [f"{name} ended before its first test"]
    problems = []
    found = collected(record)
    if found.keys() != verdict.tests.keys():
        missing, extra = verdict.tests.keys() - found.keys(), found.keys() - verdict.tests.keys()
        counts = f"{len(missing)} tests less and {len(extra)} more"
        problems.append(f"{name} found {counts}: {min(missing or extra)}, ...")
    last = record[-1]
    if last["event"] != "finish":
        where = f"in {last['test']}" if last["event"] == "start" else "between two tests"
        return [*problems, f"{name} ended {where}"]
    ended = {event["test"] for event in record if event["event"] == "end"}
    waiting = [test for test, about in found.items() if "reason" not in about and test not in ended]
    if last["stopped"]:
        if rank == 0:
            problems.append(f"{last['stopped']}; {len(waiting)} tests were not run")
    elif waiting:
        problems.append(f"{name} ended with {len(waiting)} tests not run")
    elif last["status"] not in (0, 1, 5):
        problems.append(f"{name}: pytest ended with status {last['status']}")
    return problems


def _on_ranks(ranks: list[int], size: int) -> str:
    if size == 1:
        return "one process"
    if len(ranks) == size:
        return f"all {size} ranks"
    return f"of {size} ranks: " + ", ".join(map(str, ranks))
