"""The judge of the tests: a launch that went wrong must not look like one that went well."""

import json
from pathlib import Path

import pytest
from judge import Verdict, excused, judge, never_ran

A, B = "test_a", "test_b"
PLAIN = {"markers": [], "min_size": 1}


def found(*names: str, skipped: tuple = ()) -> dict:
    return {"event": "collected", "tests": dict.fromkeys(names, PLAIN), "skipped": skipped}


def start(name: str) -> dict:
    return {"event": "start", "test": name}


def end(name: str, outcome: str = "passed", **more: str) -> dict:
    return {"event": "end", "test": name, "outcome": outcome, **more}


def finish(status: int = 0, stopped: str = "") -> dict:
    return {"event": "finish", "status": status, "stopped": stopped}


def whole(*ends: dict) -> list[dict]:
    """The record of a rank that found A and B and ran to its end."""
    return [found(A, B), *ends, finish()]


def verdict(folder: Path, *ranks: list[dict], expected: dict | None = None) -> Verdict:
    for rank, events in enumerate(ranks):
        text = "".join(json.dumps(event) + "\n" for event in events)
        (folder / f"rank{rank}.jsonl").write_text(text)
    return judge(Verdict("mpi", len(ranks)), folder, expected)


GOOD = whole(end(A), end(B))


def test_all_is_well(tmp_path: Path) -> None:
    result = verdict(tmp_path, GOOD, GOOD, GOOD)
    assert result.good
    assert result.passed == {A, B}


def test_one_failing_rank_fails_the_test_and_is_named(tmp_path: Path) -> None:
    bad = whole(end(A, "failed", text="1 != 2"), end(B))
    result = verdict(tmp_path, GOOD, bad, bad)
    assert (result.passed, result.failed) == ({B}, {A})
    assert result.failures == [f"{A} (of 3 ranks: 1, 2)\n1 != 2"]


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ([], "rank 1 ended before its first test"),
        ([found(A, B), start(A)], "rank 1 ended in test_a"),
        ([found(A, B), start(A), end(A)], "rank 1 ended between two tests"),
        ([found(A), end(A), finish()], "rank 1 found 1 tests less and 0 more: test_b"),
        (
            [found(A, B, "x"), end(A), end(B), end("x"), finish()],
            "found 0 tests less and 1 more: x",
        ),
        ([found(A, B), end(A), finish()], "rank 1 ended with 1 tests not run"),
        ([found(A, B), end(A), end(B), finish(3)], "rank 1: pytest ended with status 3"),
        (
            whole(end(A), end(B, "skipped", reason="odd")),
            "test_b ran on some ranks and was skipped",
        ),
    ],
)
def test_what_does_not_add_up_is_said(tmp_path: Path, record: list[dict], problem: str) -> None:
    result = verdict(tmp_path, GOOD, record)
    assert not result.good
    assert any(problem in text for text in result.problems)


def test_a_test_that_some_rank_never_ended_did_not_pass(tmp_path: Path) -> None:
    assert verdict(tmp_path, GOOD, [found(A, B), end(A), start(B)]).passed == {A}


def test_a_launch_that_found_less_than_a_collection_of_its_own_is_wrong(tmp_path: Path) -> None:
    less = [found(A), end(A), finish()]
    assert verdict(tmp_path, less, less).good
    assert not verdict(tmp_path, less, less, expected={A: PLAIN, B: PLAIN}).good


def test_a_launch_without_tests_is_wrong(tmp_path: Path) -> None:
    assert verdict(tmp_path, [found(), finish(5)]).problems == ["no test was found"]


def test_a_torn_last_line_is_no_event(tmp_path: Path) -> None:
    result = verdict(tmp_path, GOOD)
    path = tmp_path / "rank0.jsonl"
    path.write_text(path.read_text().rstrip()[:-5])
    assert "pytest ended between two tests" in judge(Verdict("mpi", 1), tmp_path).problems
    assert result.good


def test_a_test_must_run_somewhere(tmp_path: Path) -> None:
    skip = whole(end(A), end(B, "skipped", reason="two ranks at least"))
    alone = verdict(tmp_path, skip)
    assert never_ran([alone]) == {B: "two ranks at least"}
    assert never_ran([alone, verdict(tmp_path, GOOD, GOOD)]) == {}


def test_excuses() -> None:
    assert excused({"mpi", "gpu"}, {"peers"})
    assert not excused({"mpi"}, set())
    assert not excused({"peers"}, {"peers"})


def test_a_module_that_skips_itself_is_a_skip_with_its_marker(tmp_path: Path) -> None:
    module = found(A, skipped=(("test_c.py", "could not import 'torch': No module named 'torch'"),))
    result = verdict(tmp_path, [module, end(A), finish()])
    assert result.good
    assert result.skipped == {"test_c.py": "could not import 'torch': No module named 'torch'"}
    assert excused(result.tests["test_c.py"]["markers"], set())
