"""Run the tests: `python tests/run.py [PART...] [--ranks N...] [-k EXPRESSION] [-m EXPRESSION]`.

The parts: `process` (tests/unit and tests/system, whose tests start mpirun themselves; those that
mostly wait are in a process of their own, beside the others), `mpi` (tests/mpi under mpirun on 1,
2, 3, 4 and 8 ranks), `mpich` (the same on one count, by MPICH, from the virtual environment
.venv-mpich). Every launch has a hard time limit.

A test counts once a launch, and as passed when it passed on every rank. It is an error when ranks
found or ran different tests, when a launch found none, and when a test ran in no launch at all,
unless a marker excuses it (gpu, peers, slurm) on a machine without them.
HPCPAR_REQUIRE=peers,slurm,mpich takes such excuses back.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from judge import Tests, Verdict, collected, excused, judge, never_ran, read_record
from launch import ROOT, mpirun_command, run, started
from long import LONG

PARTS = ("process", "mpi", "mpich")
RANKS = (1, 2, 3, 4, 8)
MPICH_RANKS = (3, 4) if LONG else (3,)
LIMIT_PROCESS = 3600 if LONG else 780  # seconds a launch may take
LIMIT_MPI = 300
# Of tests/system: what loses ranks, nodes and jobs, stops them, or has them hang or sleep.
WAITING = (
    "balance", "chaos", "flight", "launch", "monitor", "nodes", "recovery", "servers", "shrink",
    "slurm", "stop",
)  # fmt: skip
SLOWEST = 5  # tests of each launch to name below the table
MPICH_PYTHON = ROOT / ".venv-mpich" / "bin" / "python"


def main() -> int:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a launch is ended with us
    required = set(filter(None, os.environ.get("HPCPAR_REQUIRE", "").split(",")))
    no_mpich = "mpich" in options.parts and not MPICH_PYTHON.exists()
    with tempfile.TemporaryDirectory(prefix="hpcpar-tests-") as name:
        runner = Runner(Path(name), options.pytest)
        verdicts = []
        if "process" in options.parts:
            verdicts += runner.process()
        if "mpi" in options.parts:
            verdicts += [runner.mpi("mpi", n, sys.executable) for n in options.ranks or RANKS]
        if "mpich" in options.parts and not no_mpich:
            verdicts += [
                runner.mpi("mpich", n, str(MPICH_PYTHON)) for n in options.ranks or MPICH_RANKS
            ]
    return report(
        verdicts, required, partly=bool(options.pytest or options.ranks), no_mpich=no_mpich
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run hpcpar's tests.")
    parser.add_argument(
        "parts", nargs="*", choices=[*PARTS, []], metavar="PART", help="/".join(PARTS)
    )
    parser.add_argument("--ranks", type=int, nargs="+", metavar="N", help="instead of 1 2 3 4 8")
    parser.add_argument("-k", metavar="EXPRESSION", help="only tests with such names")
    parser.add_argument("-m", metavar="EXPRESSION", help="only tests with such markers")
    options = parser.parse_args()
    options.parts = options.parts or list(PARTS)
    options.pytest = [
        word for flag in "km" if (value := getattr(options, flag)) for word in (f"-{flag}", value)
    ]
    return options


class Runner:
    """Launches, one after the other; each has a folder for its records."""

    def __init__(self, folder: Path, selection: list[str]) -> None:
        self.folder = folder
        self.selection = selection  # -k and -m, for pytest
        self.environment = {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "OMPI_MCA_btl": "^ofi",  # as in tools/mpirun, for programs that start without it
            "XDG_CACHE_HOME": str(folder / "cache"),  # data sets are not left in the user's
        }
        self._expected: Tests | None = None

    def process(self) -> list[Verdict]:
        """The tests of one process; beside them, in another, those that mostly wait."""
        system = sorted((ROOT / "tests" / "system").glob("test_*.py"))
        waiting = [path for path in system if path.stem[len("test_") :].startswith(WAITING)]
        others = [ROOT / "tests" / "unit", *(path for path in system if path not in waiting)]
        verdicts = []
        with ExitStack() as stack:
            for name, paths in (("one process", others), ("waiting", waiting)):
                verdict, folder = self._begin(name, 1)
                said = stack.enter_context((folder / "said.txt").open("w"))
                output = said if paths is waiting else sys.stdout  # the dots of one at a time
                command = [sys.executable, *self._pytest(folder), *map(str, paths)]
                process = stack.enter_context(started(command, output, self.environment))
                verdicts.append((verdict, folder, process, time.monotonic()))
            for verdict, folder, process, began in verdicts:
                crash = ""
                try:
                    crash = ended(process.wait(LIMIT_PROCESS))
                except subprocess.TimeoutExpired:
                    crash = over(LIMIT_PROCESS)
                self._judge(verdict, folder, time.monotonic() - began, crash)
                if crash:
                    print((folder / "said.txt").read_text(errors="replace")[-6000:], flush=True)
        return [verdict for verdict, *_ in verdicts]

    def mpi(self, name: str, ranks: int, python: str) -> Verdict:
        """The tests of tests/mpi on so many ranks."""
        expected = self._collect()
        verdict, folder = self._begin(name, ranks)
        arguments = [*self._pytest(folder), "--with-mpi", "tests/mpi"]
        return self._end(
            verdict, folder, mpirun_command(ranks, *arguments, python=python), LIMIT_MPI, expected
        )

    def _pytest(self, folder: Path) -> list[str]:
        # Failures are shown by us, once for all ranks that agree on them.
        color = (
            "--color=yes" if sys.stdout.isatty() else "--color=no"
        )  # mpirun gives a terminal always
        quiet = ["-qq", "--no-summary", color, "-p", "no:cacheprovider"]
        # A test of thousands of cases takes longer than one that hangs would be given.
        patience = ["-o", "timeout=900"] if LONG else []
        return ["tests/rank.py", str(folder), *quiet, *patience, *self.selection]

    def _collect(self) -> Tests:
        """The tests that every rank of an MPI launch must find."""
        if self._expected is None:
            folder = self.folder / "collect"
            folder.mkdir()
            command = [sys.executable, *self._pytest(folder), "--collect-only", "tests/mpi"]
            run(command, 60, self.environment, ROOT, capture=True)
            self._expected = collected(read_record(folder / "rank0.jsonl"))
        return self._expected

    def _begin(self, name: str, ranks: int) -> tuple[Verdict, Path]:
        print(f"\n{name}, {ranks} {'ranks' if ranks > 1 else 'rank'}", flush=True)
        folder = self.folder / f"{name}-{ranks}".replace(" ", "-")
        folder.mkdir()
        return Verdict(name, ranks), folder

    def _end(
        self,
        verdict: Verdict,
        folder: Path,
        command: list[str],
        limit: float,
        expected: Tests | None = None,
    ) -> Verdict:
        began = time.monotonic()
        try:
            crash = ended(run(command, limit, self.environment, ROOT).returncode)
        except subprocess.TimeoutExpired:
            crash = over(limit)
        self._judge(verdict, folder, time.monotonic() - began, crash, expected)
        if crash:
            show_last_words(folder)
        return verdict

    def _judge(
        self,
        verdict: Verdict,
        folder: Path,
        seconds: float,
        crash: str,
        expected: Tests | None = None,
    ) -> None:
        verdict.seconds = seconds
        judge(verdict, folder, expected)
        if crash:
            verdict.problems.insert(0, crash)
        if self.selection and verdict.problems == ["no test was found"]:
            verdict.problems.clear()  # nothing was asked of this launch
        show_failures(verdict)


def ended(status: int) -> str:
    """What is wrong with the exit status of a launch."""
    return f"the launch ended with status {status}" if status != 0 else ""


def over(limit: float) -> str:
    """What is wrong with a launch that took too long."""
    return f"the launch was ended after its limit of {limit:.0f} s"


def show_failures(verdict: Verdict) -> None:
    """Print what failed, and what is wrong with the launch as a whole."""
    for text in verdict.failures:
        print(f"\n--- FAILED {text}")
    for problem in verdict.problems:
        print(f"\n--- ERROR {problem}")
    sys.stdout.flush()


def show_last_words(folder: Path) -> None:
    """Print what the ranks other than 0 of a launch that crashed have said; equal words once."""
    said: dict[str, list[str]] = {}
    for path in sorted(folder.glob("rank*.txt")):
        said.setdefault(path.read_text(errors="replace").strip(), []).append(path.stem)
    for text, ranks in said.items():
        if text:
            print(f"\n--- {', '.join(ranks)} said:\n{text[-6000:]}", flush=True)


def brief(failure: str) -> str:
    """A failed test's name and its first line of error, as pytest marks them with E."""
    name, _, text = failure.partition("\n")
    errors = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    return f"{name}: {errors[0]}"[:400] if errors else name


def show_slowest(verdicts: list[Verdict]) -> None:
    """Print a line a launch: its slowest tests, and what they took on rank 0."""
    for row in verdicts:
        slowest = sorted(row.times.items(), key=lambda item: item[1], reverse=True)[:SLOWEST]
        told = ", ".join(f"{name.rpartition('/')[2]} {spent:.1f}" for name, spent in slowest)
        print(f"slowest of {row.launch}, {row.ranks}: {told}"[:400])


def report(verdicts: list[Verdict], required: set[str], partly: bool, no_mpich: bool) -> int:
    """Print the table and the closing line; the exit status."""
    print(f"\n{'launch':<14}{'ranks':>6}{'passed':>9}{'failed':>9}{'skipped':>9}{'seconds':>10}")
    for row in verdicts:
        counts = f"{len(row.passed):>9}{len(row.failed):>9}{len(row.skipped):>9}"
        mark = "" if row.good else "  ERROR"
        print(f"{row.launch:<14}{row.ranks:>6}{counts}{row.seconds:>10.1f}{mark}")

    show_slowest(verdicts)

    errors = [
        f"{row.launch}, {row.ranks} ranks: {row.problems[0]}" for row in verdicts if row.problems
    ]
    tests = {name: about for verdict in verdicts for name, about in verdict.tests.items()}
    skips: Counter[str] = Counter()
    for name, reason in never_ran(verdicts).items():
        skips[reason] += 1
        markers = set(tests[name]["markers"])
        if not excused(markers, required) and (not partly or markers & required):
            errors.append(f"{name} ran in no launch: {reason}")
    if no_mpich:
        text = "skipped  all: mpich: there is no .venv-mpich (make mpich makes it)"
        (errors.append if "mpich" in required else print)(text)
    for marker in sorted(required - {"mpich"}):
        if not any(marker in about["markers"] for about in tests.values()) and not partly:
            errors.append(f"there is no test marked {marker}, and HPCPAR_REQUIRE asks for them")
    if not any(verdict.passed | verdict.failed for verdict in verdicts):
        errors.append("no test ran")
    for reason, count in skips.most_common():
        print(f"skipped {count:>4}: {reason}")
    for verdict in verdicts:  # once more, where the end of a long log shows it
        for text in verdict.failures:
            print(f"FAILED {verdict.launch}, {verdict.ranks} ranks: {brief(text)}")
    for error in errors:
        print(f"ERROR {error}")

    passed, failed, skipped = (
        sum(len(getattr(verdict, kind)) for verdict in verdicts)
        for kind in ("passed", "failed", "skipped")
    )
    print(f"\nhpcpar: {passed} passed, {failed + len(errors)} failed, {skipped} skipped")
    return int(failed + len(errors) > 0)


if __name__ == "__main__":
    sys.exit(main())
