"""Checkpoints are whole or absent, and damage is found and named."""

import json
import os
import shutil

import numpy as np
import pytest
from checkpoints import KINDS, TENSORS, same, save, values
from long import LONG
from safetensors.numpy import load_file

from hpcpar.checkpoint import check_fit, load, load_latest
from hpcpar.checkpoint.part_file import header
from hpcpar.checkpoint.places import MANIFEST, part_name, remove_leftovers
from hpcpar.errors import UserError

FLIPS = 2000 if LONG else 500


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_read_is_what_was_written(tmp_path):
    place = save(tmp_path, 5)
    assert same(place, 5)
    facts = load(place).facts
    assert (facts.step, facts.sampler, facts.fingerprint) == (5, (1, 5), {"blas": "x"})
    assert (facts.data, facts.config, facts.balance) == ("d1", "steps = 9\n", {"speeds": [1, 2.5]})
    assert names(place) == [MANIFEST, part_name(0), part_name(1)]


def test_parts_are_safetensors(tmp_path):
    arrays = load_file(save(tmp_path, 5) / part_name(0))
    assert {kind: array.shape for kind, array in arrays.items()} == {kind: (13,) for kind in KINDS}
    assert np.array_equal(arrays["weights"][:7], values(5, "weights")["a.weight"].reshape(-1)[:7])


@pytest.mark.parametrize("elements", [0, 1, 5])
def test_any_number_of_elements_is_safetensors(tmp_path, elements):
    arrays = {kind: np.full(elements, i, np.float32) for i, kind in enumerate(KINDS)}
    content = header(KINDS, elements) + b"".join(array.tobytes() for array in arrays.values())
    (tmp_path / "x").write_bytes(content)
    read = load_file(tmp_path / "x")
    assert all(np.array_equal(read[kind], array) for kind, array in arrays.items())


def test_only_the_newest_stay(tmp_path):
    for step in (1, 2, 3, 10):
        save(tmp_path, step)
    assert names(tmp_path) == ["step-00000003", "step-00000010"]


def test_one_that_is_written_again_after_going_back(tmp_path):
    """Step 3 is damaged, so a run goes on from 2: nothing that is whole goes for it."""
    for step in (1, 2, 3):
        victim = save(tmp_path, step, keep=3)
    (victim / part_name(0)).write_bytes(b"")
    assert load_latest(tmp_path, [].append).facts.step == 2
    save(tmp_path, 2, keep=1)
    assert names(tmp_path) == ["step-00000002", "step-00000003"]
    assert load_latest(tmp_path, [].append).facts.step == 2
    assert same(save(tmp_path, 3, keep=1), 3)
    assert names(tmp_path) == ["step-00000003"]


def test_nothing_to_load(tmp_path):
    assert load_latest(tmp_path / "none", warn=pytest.fail) is None


def test_flipped_bits_and_cuts_are_found_and_the_one_before_is_loaded(tmp_path):
    random = np.random.default_rng(1)
    for step in (1, 2):
        place = save(tmp_path, step)
    whole = {path: path.read_bytes() for path in place.iterdir()}
    harmless = 0
    for i in range(FLIPS):
        victim = sorted(whole)[i % 3]
        content = bytearray(whole[victim])
        if random.random() < 0.7:
            bit = int(random.integers(8 * len(content)))
            content[bit // 8] ^= 1 << bit % 8
        else:
            del content[int(random.integers(len(content))) :]
        # JSON has white space that means nothing: such a flip changes no value.
        if victim.name == MANIFEST and _same_json(whole[victim], content):
            harmless += 1
            continue
        victim.write_bytes(content)
        said = []
        read = load_latest(tmp_path, said.append)
        assert read.facts.step == 1
        assert len(said) == 1 and str(victim) in said[0]
        victim.write_bytes(whole[victim])
    assert harmless < FLIPS / 20
    assert same(place, 2), "put back, it is whole"


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


def test_a_missing_file_is_named(tmp_path):
    save(tmp_path, 1)
    for name in (MANIFEST, part_name(1)):
        place = save(tmp_path, 2)
        (place / name).unlink()
        said = []
        assert load_latest(tmp_path, said.append).facts.step == 1
        assert f"{place / name} is missing" in said[0]
        shutil.rmtree(place)


def test_all_damaged_is_an_error(tmp_path):
    place = save(tmp_path, 1, keep=1)
    for rank in (0, 1):
        (place / part_name(rank)).write_bytes(b"nothing")
    said = []
    with pytest.raises(UserError, match="all 1 checkpoints"):
        load_latest(tmp_path, said.append)
    assert all(str(place / part_name(rank)) in said[0] for rank in (0, 1))


def test_one_of_an_older_version_says_so(tmp_path):
    place = save(tmp_path, 1)
    old = {"format": 1, "step": 1, "sampler": [0, 0], "fingerprint": {}, "data": "", "files": {}}
    (place / MANIFEST).write_text(json.dumps(old | {"checksum": ""}))
    with pytest.raises(UserError, match=r"of an older version of hpcpar \(format 1\)"):
        load(place)


def test_a_folder_of_another_name_is_not_believed(tmp_path):
    place = save(tmp_path, 1)
    place.rename(tmp_path / "step-00000007")
    with pytest.raises(UserError, match="it is of step 1"):
        load(tmp_path / "step-00000007")


@pytest.mark.parametrize("name", [MANIFEST, part_name(0)])
def test_links_and_pipes_are_not_followed(tmp_path, name):
    place, away = save(tmp_path / "run", 1), tmp_path / "away"
    (place / name).rename(away)
    (place / name).symlink_to(away)
    with pytest.raises(UserError, match=f"{name} cannot be read"):
        load(place)
    (place / name).unlink()
    os.mkfifo(place / name)
    with pytest.raises(UserError, match="it is no file"):
        load(place)


def test_what_is_read_later_may_have_become_shorter(tmp_path):
    place = save(tmp_path, 1)
    read = load(place)
    (place / part_name(0)).write_bytes(b"")
    with pytest.raises(UserError, match="has become shorter"):
        read.model["a.weight"]


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    save(tmp_path, 1)
    kept = [".step-1.partial", ".step-00000003.partials", "step-3.partial", "notes"]
    for name in (*kept, ".step-00000002.partial", ".step-00000001.replaced"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thing").write_text("x")
    (tmp_path / ".step-00000004.partial").symlink_to(tmp_path / "notes")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted([*kept, "step-00000001"])
    assert names(tmp_path / "notes") == ["thing"]


def test_what_does_not_fit_is_told(tmp_path):
    read = load(save(tmp_path, 1))
    check_fit(read, TENSORS, {"exp_avg"})
    with pytest.raises(UserError, match="another optimizer"):
        check_fit(read, TENSORS, {"momentum_buffer"})
    with pytest.raises(UserError, match=r"other parameters \(d\)"):
        check_fit(read, TENSORS | {"d": (1,)}, {"exp_avg"})
    with pytest.raises(UserError, match=r"b has shape \[2\], the run's is \[3\]"):
        check_fit(read, TENSORS | {"b": (3,)}, {"exp_avg"})
