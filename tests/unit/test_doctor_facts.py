"""What a rank sees of its container, its library and its launcher."""

import json
from types import SimpleNamespace

import pytest

from hpcpar.comm import Communicator
from hpcpar.device import Device
from hpcpar.tools.doctor.facts import gpu_facts, quota, rank_facts, versions
from hpcpar.tools.doctor.library import fault_tolerance, launcher, library_facts


@pytest.mark.parametrize(
    ("text", "cores"),
    [("200000 100000", 2), ("50000 100000", 0.5), ("max 100000", None), ("", None)],
)
def test_quota_of_cgroup_2(tmp_path, text, cores):
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert quota(tmp_path) == cores


@pytest.mark.parametrize(("limit", "cores"), [("150000", 1.5), ("-1", None)])
def test_quota_of_cgroup_1(tmp_path, limit, cores):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(limit + "\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert quota(tmp_path) == cores


def test_no_cgroups(tmp_path):
    assert quota(tmp_path) is None


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, "none: started alone"),
        ({"SLURM_JOB_ID": "1"}, "none: started alone"),
        ({"PRTE_LAUNCHED": "1", "PMIX_RANK": "0", "SLURM_STEP_ID": "0"}, "mpirun (Open MPI)"),
        ({"PMIX_RANK": "0", "SLURM_STEP_ID": "0"}, "srun (PMIx)"),
        ({"PMI_RANK": "0", "SLURM_STEP_ID": "0"}, "srun (PMI)"),
        ({"PMI_RANK": "0", "HYDI_CONTROL_FD": "7"}, "mpiexec (Hydra)"),
        ({"PMIX_RANK": "0"}, "a PMIx launcher"),
        ({"PMI_RANK": "0"}, "a PMI launcher"),
    ],
)
def test_launcher(environ, name):
    assert launcher(environ) == name


@pytest.mark.parametrize(
    ("vendor", "environ", "word"),
    [
        ("Open MPI", {}, "off"),
        ("Open MPI", {"OMPI_MCA_mpi_ft_enable": "1"}, "on"),
        ("Open MPI", {"OMPI_MCA_mpi_ft_enable": "0"}, "off"),
        ("MPICH", {}, "no"),
        ("Cray MPICH", {}, "unknown"),
    ],
)
def test_fault_tolerance(vendor, environ, word):
    assert fault_tolerance(vendor, environ).split()[0] == word


def test_gpu_of_a_rank():
    runtime = SimpleNamespace(
        getDeviceProperties=lambda index: {"name": f"GPU {index}".encode()},
        deviceGetPCIBusId=lambda index: f"0000:0{index}:00.0",
        getDeviceCount=lambda: 4,
    )
    device = SimpleNamespace(
        kind="cuda", index=2, xp=SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))
    )
    assert gpu_facts(device) == {"name": "GPU 2", "bus": "0000:02:00.0", "visible": 4}
    assert gpu_facts(Device()) is None


def test_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "absent"))
    with Communicator(device="cpu") as comm:
        facts = rank_facts(comm, Device())
    assert json.loads(json.dumps(facts)) == facts
    assert facts["rank"] == 0 and facts["machine_cores"] >= 1 and facts["cores"]
    assert facts["memory"] > 0 and facts["processor"]
    assert "No such file" in facts["temp_problem"]
    assert {"python", "hpcpar", "numpy", "mpi4py"} <= versions().keys()
    library = library_facts(Device())
    assert library["threads"] in ("single", "funneled", "serialized", "multiple")
    assert library["cuda-aware"] in ("yes", "no", "unknown")
