"""python -m hpcpar doctor, alone and under mpirun."""

import json
import os
import sys

import pytest
from mistakes import refusals

DOCTOR = ("-m", "hpcpar", "doctor")


def said(done):
    return " ".join(done.stdout.split())


@pytest.mark.parametrize("ranks", [1, 3])
def test_doctor(mpirun, tmp_path, ranks):
    done = mpirun(ranks, *DOCTOR, "--json", tmp_path / "report.json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["verdict"] in ("well", "poor")
    assert [facts["rank"] for facts in report["ranks"]] == list(range(ranks))
    assert len(report["links"]["pairs"]) == {1: 0, 3: 2}[ranks]
    assert report["library"]["library"] in said(done)
    assert done.stdout.count("MPI AND VERSIONS") == 1  # rank 0 speaks for all
    for word in ("NODES", "RANKS", "LINKS", report["ranks"][0]["host"]):
        assert word in done.stdout
    for finding in report["findings"]:
        assert f"{finding['text']}. Mend it: {finding['remedy']}." in said(done)
    assert ("all is well" in done.stdout) == (report["findings"] == [])
    assert "\x1b" not in done.stdout


def test_ranks_that_differ_are_unfit(mpirun, tmp_path):
    report = tmp_path / "report.json"
    other = ("env", "OMP_NUM_THREADS=3", sys.executable, *DOCTOR, "--json", report)
    done = mpirun(1, *DOCTOR, "--json", report, ":", "-n", 1, *other)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "unfit: rank 1 differs from rank 0 in threads: 1, 3" in said(done)
    assert json.loads(report.read_text())["verdict"] == "unfit"
    assert "Traceback" not in done.stderr


def test_ranks_bound_to_one_core(mpirun):
    bound = (
        "import os, runpy, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "sys.argv = ['hpcpar', 'doctor']; runpy.run_module('hpcpar', run_name='__main__')"
    )
    done = mpirun(2, "-c", bound)
    assert done.returncode == 0, done.stdout + done.stderr
    words = "are bound to the same core" if (os.cpu_count() or 1) > 1 else "take turns on 1 core"
    assert words in said(done)


def test_recorders_of_a_killed_run(mpirun, tmp_path):
    killed = (
        "import os, signal, numpy, hpcpar; comm = hpcpar.Communicator(device='cpu')\n"
        "comm.allreduce(numpy.ones(5000))\n"
        "if comm.rank == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "comm.barrier()"
    )
    assert mpirun(2, "-c", killed, env={"TMPDIR": str(tmp_path)}).returncode != 0
    (folder,) = tmp_path.glob("hpcpar-*/*")
    done = mpirun(2, *DOCTOR, "--flight", folder, "--json", tmp_path / "flight.json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "flight.json").read_text())
    assert told["verdict"] in done.stdout
    assert told["rows"][1]["last"]["operation"] == "allreduce"
    assert done.stdout.count("allreduce #1") >= 1


MISTAKES = [
    (["--flight", "absent"], ["absent does not exist"]),
    (["--flight", "."], ["holds no flight recorders"]),
    (["--json", "absent/report.json"], ["--json absent/report.json", "cannot be written"]),
    (["--flight"], ["--flight"]),
]


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    commands = [["hpcpar", "doctor", *words] for words, _ in MISTAKES]
    return refusals(2, commands, tmp_path_factory.mktemp("mistakes"))


@pytest.mark.parametrize("number", range(len(MISTAKES)), ids=lambda n: " ".join(MISTAKES[n][0]))
def test_mistakes(messages, number):
    assert all(word in messages[number] for word in MISTAKES[number][1]), messages[number]
