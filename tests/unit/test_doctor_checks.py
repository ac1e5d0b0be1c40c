"""What the doctor finds, from machines that are made up."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.tools.doctor.checks import examine
from hpcpar.tools.doctor.finding import KINDS, many, named
from hpcpar.tools.doctor.show import show

GPU = {"name": "H100", "bus": "0000:01:00.0", "visible": 4}
PAIR = {"ranks": [0, 4], "kind": "between", "link": {"latency": 2e-6, "bandwidth": 2e10}}


def rank(number, node, cores):
    return {
        "rank": number, "node": node, "host": f"node{node}", "machine": f"boot{node}", "pid": 1,
        "processor": "Xeon", "machine_cores": 8, "cores": cores, "quota": None,
        "threads": 1, "blas_threads": 1, "memory": 1 << 35, "shm": 1 << 34, "temp": "/tmp",
        "temp_problem": "", "gpu": None, "gpus_of_machine": 0, "adapters": [],
        "compared": {"numpy": "2.4", "threads": "1"},
    }  # fmt: skip


def healthy():
    """Two nodes of eight cores, four ranks on each, all free to run anywhere."""
    return {
        "library": {"threads": "multiple", "cuda-aware": "no", "library": "Open MPI 5.0.8"},
        "versions": {"python": "3.11"},
        "fingerprint": {"numpy": "2.4"},
        "symmetric": "",
        "ranks": [rank(i, i // 4, list(range(8))) for i in range(8)],
        "links": {"pairs": [copy.deepcopy(PAIR)], "copy": 1e-10, "combine": 1e-10},
    }


def change(**facts):
    """A disease that all ranks have."""

    def disease(report):
        for number, own in enumerate(report["ranks"]):
            own.update({k: v(number) if callable(v) else v for k, v in facts.items()})

    return disease


def other_numpy(report):
    for number in (3, 5, 6):
        report["ranks"][number]["compared"]["numpy"] = "2.0"


def no_sharing(report):
    report["symmetric"] = "symmetric: rank 1: the shared memory of rank 0 cannot be opened"


def one_name(report):
    for own in report["ranks"]:
        own["host"] = "localhost"


def single_thread(report):
    report["library"]["threads"] = "funneled"


def tcp(report):
    report["ranks"][0]["adapters"] = ["mlx5_0"]
    report["links"]["pairs"][0]["link"]["latency"] = 4e-5


def bad_cable(report):
    slow = copy.deepcopy(PAIR) | {"ranks": [4, 8]}
    slow["link"]["bandwidth"] = 1e9
    report["links"]["pairs"].append(slow)


DISEASES = [
    (other_numpy, "unfit", ["ranks 3 and 5-6 differ from rank 0 in numpy: 2.4, 2.0"]),
    (no_sharing, "unfit", ["cannot share memory", "rank 1", "one container"]),
    (one_name, "unfit", ["2 machines call themselves localhost"]),
    (change(machine="boot"), "poor", ["2 of the nodes are parts of the same machine"]),
    (change(cores=[0, 1]), "poor", ["4 ranks take turns on 2 cores (node0, node1)", "2 ranks"]),
    (change(cores=lambda i: [i // 2 % 2]), "poor",
     ["ranks 0-1 are bound to the same core 0 (node0), and 1 cores more", "--bind-to none"]),
    (change(blas_threads=4), "poor",
     ["4 ranks of up to 4 BLAS threads share 8 cores", "OMP_NUM_THREADS=2"]),
    (change(blas_threads=None, threads=3), "poor", ["OMP_NUM_THREADS=2"]),
    (change(quota=3.5), "poor", ["3.5 cores' time and shows 8", "docker run --cpus"]),
    (single_thread, "poor", ["thread level funneled", "MPI_THREAD_MULTIPLE"]),
    (change(gpu=lambda i: GPU | {"visible": 1, "bus": str(i)}), "poor",
     ["sees only its own GPU", "CUDA IPC", "--gpu-bind=none"]),
    (change(gpu=lambda i: GPU), "poor", ["several ranks share a GPU (node0, node1)"]),
    (change(gpu=lambda i: GPU | {"bus": str(i)}), "note", ["MPI takes no GPU memory"]),
    (change(gpus_of_machine=4), "note", ["GPUs that hpcpar cannot use", "hpcpar[cuda12]"]),
    (tcp, "poor", ["a message between nodes takes 40 us", "mlx5_0", "TCP"]),
    (bad_cable, "poor", ["between ranks 4 and 8 there are 1 GB/s, between ranks 0 and 4 20"]),
    (change(temp_problem="Read-only file system"), "poor", ["/tmp cannot be written", "TMPDIR"]),
    (change(memory=1 << 30), "poor", ["little memory is left for 4 ranks (node0: 1.1 GB"]),
    (change(shm=64_000_000), "note", ["/dev/shm has 64 MB", "hpcpar does without", "--shm-size"]),
]  # fmt: skip


def test_all_is_well(capsys):
    assert examine(healthy()) == []
    show(healthy(), [])
    assert capsys.readouterr().out.endswith("\nall is well\n")


@pytest.mark.parametrize(("disease", "kind", "words"), DISEASES)
def test_diseases(disease, kind, words, capsys):
    report = healthy()
    disease(report)
    found = examine(report)
    hits = [finding for finding in found if words[0] in finding.text + finding.remedy]
    assert len(hits) == 1 and hits[0].kind == kind, found
    text = f"{hits[0].text} {hits[0].remedy}"
    assert all(word in text for word in words), text
    assert len(found) <= 2  # what follows from the same cause
    show(report, found)
    said = " ".join(capsys.readouterr().out.split())
    assert f"{kind}: {hits[0].text}. Mend it: {hits[0].remedy}." in said


def test_the_worst_first():
    report = healthy()
    change(shm=1, cores=[0])(report)
    other_numpy(report)
    kinds = [finding.kind for finding in examine(report)]
    assert kinds == sorted(kinds, key=KINDS.index) and set(kinds) == set(KINDS)


def test_one_core_and_one_rank_is_well():
    report = healthy()
    report["ranks"] = [rank(0, 0, [0]) | {"machine_cores": 1}]
    report["links"]["pairs"] = []
    assert examine(report) == []


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "node": st.integers(0, 3),
                "cores": st.lists(st.integers(0, 9), min_size=1, unique=True),
                "quota": st.none() | st.floats(0.1, 99),
                "blas_threads": st.none() | st.integers(1, 9),
                "memory": st.none() | st.integers(0, 1 << 40),
                "shm": st.none() | st.integers(0, 1 << 40),
                "gpu": st.none() | st.just(GPU),
                "machine": st.sampled_from(["", "a", "b"]),
            }
        ),
        min_size=1,
        max_size=40,
    )
)
def test_any_machine(many_facts):
    report = healthy()
    report["ranks"] = [rank(i, 0, [0]) | facts for i, facts in enumerate(many_facts)]
    for finding in examine(report):
        assert finding.kind in KINDS and finding.text and finding.remedy
        assert len(finding.text) < 250


def test_many_nodes_are_not_all_named():
    assert named(["a", "b", "a"]) == "a, b"
    assert named([f"n{i}" for i in range(20)]) == "n0, n1, n2 and 17 more"
    assert (many(1, "core"), many(2, "core")) == ("1 core", "2 cores")
