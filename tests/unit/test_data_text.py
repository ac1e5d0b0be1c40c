"""Text and tokens: joined once, up to date, cut into windows."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.data import bigram_loss, consecutive_windows
from hpcpar.data.corpus import build_corpus, list_files, map_corpus, standard_library
from hpcpar.data.dataset import split
from hpcpar.data.tokens import digest_and_vocabulary, map_tokens
from hpcpar.data.windows import Windows
from hpcpar.errors import UserError


def joined(files, cache):
    text, digest = map_corpus(build_corpus(files, cache))
    return bytes(text), digest


def test_a_folder_is_joined_in_the_order_of_names(tmp_path):
    text = tmp_path / "text"
    (text / "b").mkdir(parents=True)
    (text / "b" / "2").write_bytes(b"two\xff")
    (text / "a").write_bytes(b"one ")
    (text / "c").write_bytes(b"")
    (text / ".hidden").write_bytes(b"no")
    (text / "__pycache__").mkdir()
    (text / "__pycache__" / "x.pyc").write_bytes(b"no")
    content, digest = joined(list_files([str(text)]), tmp_path / "cache")
    assert content == b"one two\xff"
    assert joined(list_files([str(text)]), tmp_path / "cache") == (content, digest)


def test_an_edit_of_the_same_size_and_time_is_seen(tmp_path):
    path, cache = tmp_path / "text", tmp_path / "cache"
    path.write_bytes(b"before")
    old = path.stat()
    first = joined([path], cache)
    path.write_bytes(b"after!")
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    second = joined([path], cache)
    assert (first[0], second[0]) == (b"before", b"after!") and first[1] != second[1]
    assert len(list(cache.iterdir())) == 2, "the old text is replaced, nothing is left over"


def test_an_unchanged_text_is_not_joined_again(tmp_path):
    path, cache = tmp_path / "text", tmp_path / "cache"
    path.write_bytes(b"text")
    place = build_corpus([path], cache)
    before = place.stat().st_ino
    assert build_corpus([path], cache).stat().st_ino == before
    place.with_suffix(".json").write_text("{}")  # a description that does not fit
    assert build_corpus([path], cache).stat().st_ino != before


def test_an_interrupted_join_leaves_the_old_one(tmp_path, monkeypatch):
    path, cache = tmp_path / "text", tmp_path / "cache"
    path.write_bytes(b"old")
    joined([path], cache)
    path.write_bytes(b"newer")

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match="No space left"):
        build_corpus([path], cache)
    monkeypatch.undo()
    assert len(list(cache.iterdir())) == 2
    assert joined([path], cache)[0] == b"newer"


def test_what_cannot_be_read(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="does not exist"):
        list_files([str(tmp_path / "absent")])
    with pytest.raises(UserError, match="there is no file"):
        list_files([str(tmp_path / "empty")])
    with pytest.raises(UserError, match="is empty"):
        Windows([np.empty(0, np.uint8)], 8, "text", "bytes", least=2)
    with pytest.raises(UserError, match="has 16 bytes.* at least 17"):
        Windows([np.zeros(16, np.uint8)], 8, "text", "bytes", least=2)
    with pytest.raises(UserError, match="absent"):
        consecutive_windows(str(tmp_path / "absent"), "bytes", 8)


def test_the_default_text_is_there():
    files = standard_library()
    assert len(files) > 100 and all(path.suffix == ".py" for path in files)
    assert not any("site-packages" in str(path) for path in files)


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    context=st.integers(1, 9),
    data=st.data(),
)
def test_windows_over_several_files(lengths, context, data):
    tokens = np.arange(sum(lengths))
    parts = np.split(tokens, np.cumsum(lengths)[:-1])
    if len(tokens) < context + 1:
        with pytest.raises(UserError):
            Windows(parts, context, "text", "tokens", least=1)
        return
    windows = Windows(parts, context, "text", "tokens", least=1)
    assert len(windows) == (len(tokens) - 1) // context
    numbers = np.array(
        data.draw(st.lists(st.integers(0, len(windows) - 1), min_size=1, max_size=5))
    )
    inputs, targets = windows.batch(numbers)
    assert np.array_equal(inputs, numbers[:, None] * context + np.arange(context))
    assert np.array_equal(targets, inputs + 1)


@given(count=st.integers(2, 500), share=st.floats(0.01, 0.99))
def test_the_parts_are_disjoint_and_cover_everything(count, share):
    windows = Windows([np.arange(count + 1)], 1, "text", "tokens", least=2)
    train, validation = split(windows, share)
    assert len(train) >= 1 and len(validation) >= 1
    assert sorted([*train.numbers, *validation.numbers]) == list(range(count))
    assert np.array_equal(split(windows, share)[1].numbers, validation.numbers)
    spread = validation.spread(3)
    assert len(spread) == min(3, len(validation)) and len(set(spread)) == len(spread)


def test_tokens_of_nanogpt_and_llm_c(tmp_path):
    tokens = np.array([5, 60000, 7, 1], np.uint16)
    plain, headed, wide = (tmp_path / name for name in ("a.bin", "b.bin", "c.bin"))
    tokens.tofile(plain)
    for path, magic, version, dtype in (
        (headed, 20240520, 1, np.uint16),
        (wide, 20240801, 7, np.uint32),
    ):
        header = np.zeros(256, np.int32)
        header[:3] = magic, version, len(tokens)
        path.write_bytes(header.tobytes() + tokens.astype(dtype).tobytes())
    parts = [map_tokens(path) for path in (plain, headed, wide)]
    assert all(np.array_equal(part, tokens) for part in parts)
    digests = {digest_and_vocabulary([part]) for part in parts}
    assert digests == {(digests.pop()[0], 60001)}
    headed.write_bytes(headed.read_bytes()[:-2])
    with pytest.raises(UserError, match="damaged"):
        map_tokens(headed)
    plain.write_bytes(b"odd")
    with pytest.raises(UserError, match="3 bytes"):
        map_tokens(plain)


def test_bigram_against_counting():
    random = np.random.default_rng(0)
    windows = Windows([random.integers(0, 4, 203)], 2, "text", "tokens", least=2)
    train, validation = split(windows, 0.3)
    counts = np.ones((4, 4))
    for a, b in zip(*(part.ravel() for part in train.batch(np.arange(len(train)))), strict=True):
        counts[a, b] += 1
    looks = validation.spread(9)
    pairs = list(zip(*(part.ravel() for part in validation.batch(looks)), strict=True))
    expected = -np.mean([np.log(counts[a, b] / counts[a].sum()) for a, b in pairs])
    assert bigram_loss(train, validation, looks, 4) == pytest.approx(expected, rel=1e-12)
