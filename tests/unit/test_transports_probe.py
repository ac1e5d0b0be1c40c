"""The probe for a CUDA-aware MPI, with children that lie, crash and hang."""

import json
import sys

import pytest

from hpcpar.comm.transports import probe
from hpcpar.comm.transports.probe import YES, child_environment, cuda_aware

CHILDREN = {
    "right": (f"print({YES!r})", True),
    "right among noise": (f"print('noise'); print({YES!r})", True),
    "silent": ("pass", False),
    "other words": ("print('yes')", False),
    "crash": ("import ctypes; ctypes.string_at(8)", False),
    "right and then a crash": (
        f"print({YES!r}, flush=True); import os; os.kill(os.getpid(), 11)",
        False,
    ),
    "failed": (f"import sys; print({YES!r}); sys.exit('wrong values')", False),
}


@pytest.fixture
def says_yes(monkeypatch):
    """A library whose own answer is no no."""
    monkeypatch.setattr(probe, "_library_says_no", lambda library: False)


def command(text):
    return (sys.executable, "-c", text)


@pytest.mark.parametrize("text, expected", CHILDREN.values(), ids=CHILDREN)
def test_what_the_child_does_is_the_answer(says_yes, tmp_path, text, expected):
    assert cuda_aware(tmp_path, child=command(text), limit=20) is expected


def test_a_child_that_hangs_means_no(says_yes, tmp_path):
    hang = command("import time; time.sleep(1000)")
    assert cuda_aware(tmp_path, child=hang, limit=0.5) is False
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text())["reason"] == "the trial did not end in 0.5 s"


def test_a_missing_command_means_no(says_yes, tmp_path):
    assert cuda_aware(tmp_path, child=("/nowhere/python",)) is False


def test_the_answer_is_remembered(says_yes, tmp_path):
    marks = tmp_path / "marks"
    text = f"open({str(marks)!r}, 'a').write('x'); print({YES!r})"
    cache = tmp_path / "cache" / "hpcpar"
    assert [cuda_aware(cache, child=command(text)) for _ in range(3)] == [True] * 3
    assert marks.read_text() == "x"


def test_a_damaged_answer_is_found_again(says_yes, tmp_path):
    assert cuda_aware(tmp_path, child=command(f"print({YES!r})")) is True
    (file,) = tmp_path.iterdir()
    file.write_text("{")
    assert cuda_aware(tmp_path, child=command("pass")) is False


def test_another_setting_is_another_question(says_yes, tmp_path, monkeypatch):
    assert cuda_aware(tmp_path, child=command(f"print({YES!r})")) is True
    monkeypatch.setenv("OMPI_MCA_pml", "ob1")
    assert cuda_aware(tmp_path, child=command("pass")) is False


def test_a_cache_that_cannot_be_written_is_no_error(says_yes, tmp_path):
    (tmp_path / "file").write_text("")
    assert cuda_aware(tmp_path / "file", child=command(f"print({YES!r})")) is True


def test_the_child_is_no_rank(says_yes, tmp_path, monkeypatch):
    for name in ("PMIX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("OMPI_MCA_pml", "ucx")
    names = ("PMIX_", "OMPI_COMM", "PMI_", "SLURM_")
    text = (
        f"import os; assert not [n for n in os.environ if n.startswith({names!r})];"
        f"assert os.environ['OMPI_MCA_pml'] == 'ucx'; print({YES!r})"
    )
    assert cuda_aware(tmp_path, child=command(text)) is True


def test_child_environment():
    given = {"PATH": "/bin", "OMPI_MCA_ess": "pmi", "OMPI_MCA_btl": "self", "UCX_TLS": "all"}
    kept = {"PATH": "/bin", "OMPI_MCA_btl": "self", "UCX_TLS": "all"}
    assert child_environment(given | {"PRTE_MCA_x": "1", "HYDRA_Y": "2"}) == kept


def test_a_library_that_says_no_is_believed(tmp_path, monkeypatch):
    """Without a child."""
    monkeypatch.setattr(probe, "_library_says_no", lambda library: True)
    assert cuda_aware(tmp_path, child=("/nowhere/python",)) is False
    assert not list(tmp_path.iterdir())


def test_the_library_of_this_process_is_found():
    assert probe._library_path() is not None


def test_the_child_without_a_gpu_ends_with_an_error():
    """What the real child does here: no crash of this process, and no yes."""
    aware, reason = probe._try(probe.CHILD, 60)
    if not aware:
        assert reason.startswith("the trial ended with status")
