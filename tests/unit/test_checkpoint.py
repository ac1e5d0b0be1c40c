"""Checkpoints are whole or absent, and damage is found and named."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcpar import checkpoint
from hpcpar.checkpoint import Checkpoint, list_checkpoints, load, load_latest, save
from hpcpar.errors import UserError


def state(step: int) -> Checkpoint:
    random = np.random.default_rng(step)
    model = {"a.weight": random.standard_normal((3, 4), np.float32), "b": np.ones(2, np.float32)}
    moments = {name: array * 2 for name, array in model.items()}
    return Checkpoint(step, model, {"exp_avg": moments}, (1, step), {"blas": "x"}, "d1")


def test_what_is_read_is_what_was_written(tmp_path):
    written = state(5)
    read = load(save(tmp_path, written, keep=2))
    assert (read.step, read.sampler, read.fingerprint) == (5, (1, 5), {"blas": "x"})
    for name, array in written.model.items():
        assert np.array_equal(read.model[name], array)
        assert np.array_equal(read.optimizer["exp_avg"][name], array * 2)


def test_only_the_newest_stay(tmp_path):
    for step in (1, 2, 3, 10):
        save(tmp_path, state(step), keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000003", "step-00000010"]


def test_nothing_to_load(tmp_path):
    assert load_latest(tmp_path / "none", warn=pytest.fail) is None


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_or_a_cut_is_found_and_the_one_before_is_loaded(tmp_path, data):
    folder = tmp_path / "c"
    shutil.rmtree(folder, ignore_errors=True)
    for step in (1, 2):
        save(folder, state(step), keep=2)
    victims = sorted((folder / "step-00000002").iterdir())
    victim = data.draw(st.sampled_from(victims))
    content = bytearray(victim.read_bytes())
    if data.draw(st.booleans()):
        bit = data.draw(st.integers(0, 8 * len(content) - 1))
        content[bit // 8] ^= 1 << bit % 8
        # JSON has white space that means nothing: such a flip changes no value.
        if victim.name == checkpoint.MANIFEST and _same_json(victim.read_bytes(), content):
            return
    else:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
        if victim.name == checkpoint.MANIFEST and _same_json(victim.read_bytes(), content):
            return
    victim.write_bytes(content)
    said = []
    read = load_latest(folder, said.append)
    assert read is not None and read.step == 1
    assert len(said) == 1 and str(victim) in said[0]


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


def test_all_damaged_is_an_error(tmp_path):
    place = save(tmp_path, state(1), keep=1)
    (place / checkpoint.MODEL).unlink()
    with pytest.raises(UserError, match="all 1 checkpoints"):
        load_latest(tmp_path, warn=lambda text: None)


@pytest.mark.parametrize("call", ["save_file", "flush", "_describe"])
def test_an_interrupted_write_leaves_the_old_one(tmp_path, monkeypatch, call):
    save(tmp_path, state(1), keep=2)

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, call, fail)
    with pytest.raises(UserError, match="No space left"):
        save(tmp_path, state(2), keep=2)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert load_latest(tmp_path, warn=pytest.fail).step == 1
