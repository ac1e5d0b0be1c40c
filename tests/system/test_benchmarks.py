"""The benchmarks run in their short form, and report what they should."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from long import LONG
from slurm_cluster import missing

pytestmark = pytest.mark.timeout(150)

ROOT = Path(__file__).parents[2]
BLAS = runpy.run_path(str(ROOT / "benchmarks" / "peers" / "loaded_blas.py"))


def run(name: str, report: Path, *arguments: str) -> dict:
    """The report of a benchmark's short form."""
    program = ROOT / "benchmarks" / name
    command = [sys.executable, program, "--short", "--json", report, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=140, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert found["measured"] is True
    assert found["machine"]["cores"] >= 1 and found["commit"] and found["versions"]["numpy"]
    return found


def test_collectives(tmp_path):
    report = run("collectives.py", tmp_path / "report.json", "--sizes", "16", "40000")
    rows = report["rows"]
    assert all(row["wrong"] == 0 and row["measured"] is True for row in rows)
    assert all(row["seconds"] > 0 and len(row["seconds_of_rounds"]) == 1 for row in rows)
    found = {(row["operation"], row["size"], row["algorithm"]) for row in rows}
    for size in (16, 40000):
        for name in ("hpcpar", "hpcpar, ring", "Open MPI", "Open MPI, ring"):
            assert ("allreduce", size, name) in found
        assert ("allreduce in place", size, "hpcpar, symmetric") in found
        assert {("copy", size, "limit"), ("copy in place", size, "limit")} <= found
    for row in rows:
        assert row["algbw"] == pytest.approx(row["size"] / row["seconds"] / 1e9)
        if row["operation"] == "allreduce":
            assert row["busbw"] == pytest.approx(row["algbw"])  # 2 (n - 1) / n for n = 2
    assert [(row["ranks"], row["size"], row["wrong"]) for row in report["small"]] == [(2, 16, 0)]
    assert "<svg" in (tmp_path / "report.svg").read_text()


def test_plans(tmp_path):
    report = run("plans.py", tmp_path / "report.json")
    (case,) = report["cases"]
    assert (case["model"], case["ranks"]) == ("slept", 2)
    rows = case["rows"]
    assert {"data 2 x pipeline 1, zero 1", "data 1 x pipeline 2, zero-bubble"} <= {
        row["layout"] for row in rows
    }
    for row in rows:
        assert row["planned"] > 0 and row["measured"] > 0
        assert row["error"] == abs(row["planned"] / row["measured"] - 1)
    assert [row["planned"] for row in rows] == sorted(row["planned"] for row in rows)
    assert case["choice"] >= 1


@pytest.mark.slurm  # for what it needs: root and Debian's iproute2
def test_collectives_over_two_nodes(tmp_path):
    if reason := missing():
        pytest.skip(reason)
    report = run("collectives.py", tmp_path / "report.json", "--two-nodes", "--operations", "bcast")
    assert {row["algorithm"] for row in report["rows"]} >= {"limit", "hpcpar", "Open MPI, yielding"}
    for row in report["rows"]:
        assert (row["wrong"], row["ranks"], row["nodes"]) == (0, 4, 2)


def test_matmul(tmp_path):
    report = run("matmul.py", tmp_path / "report.json", "--tiles", "64,64,64")
    names = {row["algorithm"] for row in report["rows"]}
    assert {"hpcpar, auto", "hpcpar, data", "hpcpar, summa", "hpcpar, auto by messages"} <= names
    assert any(name.startswith("NumPy") for name in names)
    peers = [name for name in names if name.startswith("ScaLAPACK")]  # where it is installed
    assert all(" (" in name and "reference BLAS" not in name for name in peers)
    for row in report["rows"]:
        assert row["status"] == "pass" and row["residual"] < 3 and row["measured"] is True
        assert row["gflops"] == pytest.approx(
            2e-9 * row["m"] * row["n"] * row["k"] / row["seconds"]
        )
        if row["words"] is not None:
            assert row["words_measured"] == row["words_predicted"]
    assert "<svg" in (tmp_path / "report.svg").read_text()


@pytest.mark.parametrize(
    ("file", "symbols", "name"),
    [
        ("/usr/lib/openblas-serial/libblas.so.3", ["openblas_get_config"], "OpenBLAS"),
        ("/usr/lib/blis-openmp/libblas.so.3", ["bli_info_get_version_str"], "BLIS"),
        ("/opt/mkl/libmkl_rt.so.2", ["MKL_Get_Version"], "MKL"),
        ("/usr/lib/blas/libblas.so.3.11.0", [], "reference BLAS"),
        ("/opt/arm/libarmpl_lp64.so", [], "libarmpl_lp64"),
    ],
)
def test_the_name_of_a_blas(file, symbols, name):
    assert BLAS["blas_name"](file, symbols.__contains__) == name


def test_the_file_at_an_address():
    maps = (
        "7f00-8000 r-xp 00000000 08:01 12   /usr/lib/libblas.so.3\n"
        "8000-9000 rw-p 00000000 00:00 0\n"
        "9000-a000 r-xp 00000000 08:01 13   /opt/my libraries/libopenblas.so.0\n"
    )
    assert BLAS["file_at"](maps, 0x7FFF) == "/usr/lib/libblas.so.3"
    assert BLAS["file_at"](maps, 0x9000) == "/opt/my libraries/libopenblas.so.0"
    for address in (0x8000, 0xA000):
        with pytest.raises(LookupError):
            BLAS["file_at"](maps, address)


def test_priced_products(tmp_path):
    program = [sys.executable, ROOT / "benchmarks" / "matmul.py", "--priced"]
    report = tmp_path / "report.json"
    program += ["--cases", "4096,4096,4096", "--json", report, *([] if LONG else ["--short"])]
    subprocess.run(program, check=True, timeout=100, capture_output=True)
    found = json.loads(report.read_text())
    assert found["priced"] is True and found["measured"] is False
    for curve in found["curves"]:
        assert curve["words"] >= curve["bound"] * (1 - 1e-9)
    ranks = [curve["ranks"] for curve in found["curves"]]
    assert ranks == ([2**power for power in range(13)] if LONG else [1, 16, 256, 4096])


def test_layouts(tmp_path):
    report = run("layouts.py", tmp_path / "report.json")
    assert [row["schedule"] for row in report["rows"]] == [
        "gpipe", "1f1b", "interleaved", "zero-bubble",
    ]  # fmt: skip
    for row in report["rows"]:
        assert 0 < row["efficiency"] < 1 and row["formula"] < 1


def test_checkpoints(tmp_path):
    (row,) = run("checkpoints.py", tmp_path / "report.json", "--dir", str(tmp_path))["rows"]
    assert row["every"] == 2 and row["there"] > row["begin"] > 0 and row["step"] > 0
    assert row["percents"] == [row["percent"]]
    assert row["bytes"] > 12 * 256 * 32, "weights and two moments"
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_hashes():
    program = [sys.executable, ROOT / "benchmarks" / "hashes.py", "--short"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=140, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines()]
    assert len({(row[1], row[4]) for row in rows}) == 2 < len(rows), "one hash for each promise"


@pytest.mark.peers
def test_training(tmp_path):
    promises = ["off", "layout"]
    report = run("training.py", tmp_path / "report.json", "--reproducible", *promises)
    names = [*(f"hpcpar, {promise}" for promise in promises), "PyTorch DDP"]
    assert list(report["tokens_per_second"]) == names == list(report["medians"])
    for name, speeds in report["tokens_per_second"].items():
        assert len(speeds) == report["rounds"] == 1
        assert report["medians"][name] == speeds[0] > 0


@pytest.mark.peers
def test_pytorch_tree_sum(tmp_path):
    report = run("pytorch_tree_sum.py", tmp_path / "report.json")
    assert {len(values) for values in report["seconds"].values()} == {report["rounds"]} == {1}
    assert report["ratio"] == pytest.approx(
        report["medians"]["TreeSum"] / report["medians"]["DDP (gloo)"]
    )
