"""Files as one text of bytes: found, cached whole or not at all, cut into windows."""

import json
import os
import shutil
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hpcpar.data.cache
from hpcpar.data import DataConfig, bigram_loss, consecutive_windows, open_data
from hpcpar.data.cache import Cache
from hpcpar.data.files import SourceFile
from hpcpar.data.text import open_text, plan_text
from hpcpar.data.windows import Stream, Windows, count_windows
from hpcpar.errors import UserError


def joined(cache, *paths):
    """The bytes and the digest that these paths give."""
    recipe = plan_text([str(path) for path in paths])
    list(Cache(cache).build(recipe))
    entry = Cache(cache).open(recipe.name)
    stream = open_text(entry)
    content = np.empty(len(stream), np.uint8)
    stream.read(0, content)
    return bytes(content), entry.meta["digest"]


@pytest.fixture
def text(tmp_path):
    folder = tmp_path / "text"
    for name in ("b/2", "a", "c/d/1", "empty", ".hidden", ".git/x", "__pycache__/y"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if name == "empty" else f"<{name}>".encode())
    return folder


def test_folders_are_read_in_order(text, tmp_path):
    cache = tmp_path / "cache"
    content, digest = joined(cache, text)
    assert content == b"<a><b/2><c/d/1>"
    # The digest is that of the content, wherever it came from.
    (tmp_path / "one").write_bytes(content)
    assert joined(cache, tmp_path / "one") == (content, digest)
    assert joined(cache, text / "c", text / "a", text / "a")[0] == b"<c/d/1><a>"


def test_what_is_cached_is_not_made_again(text, tmp_path, monkeypatch):
    first = joined(tmp_path / "cache", text)
    monkeypatch.setattr(SourceFile, "chunks", lambda *_: pytest.fail("read again"))
    assert joined(tmp_path / "cache", text) == first


def test_an_edit_that_keeps_size_and_time_is_seen(text, tmp_path):
    cache, path = tmp_path / "cache", text / "a"
    before = path.stat()
    for content in (b"{a}", b"(a)", b"[a]"):
        path.write_bytes(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert joined(cache, path)[0] == content
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (3, before.st_mtime_ns)


def test_added_and_removed_files_are_seen(text, tmp_path):
    (text / "b3").write_bytes(b"<b3>")
    assert joined(tmp_path / "cache", text)[0] == b"<a><b/2><b3><c/d/1>"
    (text / "b3").unlink()
    assert joined(tmp_path / "cache", text)[0] == b"<a><b/2><c/d/1>"


@pytest.mark.parametrize("damage", ["cut", "missing", "meta", "not JSON"])
def test_a_damaged_entry_is_made_again(text, tmp_path, damage):
    cache = tmp_path / "cache"
    good = joined(cache, text)
    (entry,) = cache.iterdir()
    if damage == "cut":
        os.truncate(entry / "content.bin", 5)
    elif damage == "missing":
        (entry / "content.bin").unlink()
    else:
        (entry / "meta.json").write_text("[]" if damage == "meta" else "{")
    with pytest.raises(UserError, match="damaged"):
        Cache(cache).open(entry.name)
    assert joined(cache, text) == good


@pytest.mark.parametrize("moment", range(4))
def test_an_interrupted_build_leaves_nothing(text, tmp_path, monkeypatch, moment):
    cache = tmp_path / "cache"
    work = Cache(cache).build(recipe := plan_text([str(text)]))
    if moment < 3:  # after this many files
        for _ in range(moment + 1):
            next(work)
        assert Cache(cache).find(recipe.name) is None
        work.close()
    else:  # at the very end

        def interrupt(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(hpcpar.data.cache.Cache, "_put", interrupt)
        with pytest.raises(KeyboardInterrupt):
            list(work)
        monkeypatch.undo()
    assert list(cache.iterdir()) == []
    assert joined(cache, text)[0] == b"<a><b/2><c/d/1>"


def test_two_builders_at_once(text, tmp_path):
    recipe = plan_text([str(text)])
    one, other = (Cache(tmp_path / "cache").build(recipe) for _ in range(2))
    next(one)
    list(other)
    place = Cache(tmp_path / "cache").open(recipe.name).folder
    mapped = place.stat().st_ino
    list(one)
    assert place.stat().st_ino == mapped, "what the first to finish made stays in place"
    assert list((tmp_path / "cache").iterdir()) == [place]


def test_old_entries_go_and_nothing_else(text, tmp_path):
    cache = tmp_path / "cache"
    joined(cache, text / "a")
    (old,) = cache.iterdir()
    (killed, other) = (cache / ".partial-0123456789abcdef", cache / "my-precious-folder")
    killed.mkdir()
    other.mkdir()
    long_ago = time.time() - 31 * 24 * 3600
    for path in (old, killed, other):
        os.utime(path, (long_ago, long_ago))
    joined(cache, text / "b")
    assert not old.exists() and not killed.exists() and other.exists()
    (new,) = set(cache.iterdir()) - {other}
    os.utime(new, (long_ago, long_ago))
    joined(cache, text / "b")  # it is used, so it stays
    joined(cache, text / "c")
    assert new.exists()


def test_a_file_that_changes_while_it_is_read(text, tmp_path):
    work = Cache(tmp_path / "cache").build(plan_text([str(text)]))
    next(work)
    (text / "b" / "2").write_bytes(b"longer than before")
    with pytest.raises(UserError, match=r"b/2 changed while"):
        list(work)
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_cannot_be_read(text, tmp_path):
    with pytest.raises(UserError, match="absent cannot be read: No such file"):
        plan_text([str(tmp_path / "absent")])
    with pytest.raises(UserError, match="empty has 0 bytes"):
        plan_text([str(text / "empty")])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is neither a regular file nor a folder"):
        plan_text([str(tmp_path / "pipe")])


def test_a_file_that_is_gone_when_it_is_read(text, tmp_path):
    recipe = plan_text([str(text / "a")])
    (text / "a").unlink()
    with pytest.raises(UserError, match="text/a cannot be read"):
        list(Cache(tmp_path / "cache").build(recipe))


def test_a_cache_that_cannot_be_written(text, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"file cannot be written.*--data\.cache"):
        joined(tmp_path / "file", text)


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert DataConfig().cache_folder == tmp_path / ".cache" / "hpcpar"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert DataConfig().cache_folder == tmp_path / "x" / "hpcpar"
    assert str(DataConfig(cache="here").cache_folder) == "here"


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    context=st.integers(1, 9),
    data=st.data(),
)
def test_windows_over_several_pieces(lengths, context, data):
    total = sum(lengths)
    stream = Stream(np.split(np.arange(total), np.cumsum(lengths)[:-1]))
    count = count_windows(total, context)
    assert len(stream) == total and (count == 0 or count * context < total)
    assert (count + 1) * context >= total, "no whole window is left over"
    if count:
        windows = Windows(stream, context, np.arange(count))
        numbers = np.array(data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=5)))
        inputs, targets = windows.batch(numbers)
        assert inputs.dtype == targets.dtype == np.int32
        assert np.array_equal(inputs, numbers[:, None] * context + np.arange(context))
        assert np.array_equal(targets, inputs + 1)
    with pytest.raises(IndexError):
        stream.read(total, np.empty(1, np.int64))


def test_a_dataset_of_bytes(tmp_path):
    content = np.random.default_rng(0).bytes(1001)
    (tmp_path / "noise").write_bytes(content)
    config = DataConfig([str(tmp_path / "noise")], validation=0.1, cache=str(tmp_path / "cache"))
    data = open_data(config, 10)
    assert (data.kind, data.vocabulary, data.length) == ("bytes", 256, 1001)
    assert (len(data.train), len(data.validation), data.train.targets_per_sample) == (90, 10, 10)
    pieces = sorted(
        (bytes(row.astype(np.uint8)), part)
        for part in (data.train, data.validation)
        for row in part.batch(part.spread(0))[0]
    )
    assert sorted(content[i : i + 10] for i in range(0, 1000, 10)) == [piece for piece, _ in pieces]
    assert "1,001 bytes" in data.describe() and "noise" in data.describe()
    assert data.validation.spread(4).tolist() == [0, 2, 5, 7]
    assert data.validation.spread(99).tolist() == list(range(10))


def test_too_short(tmp_path):
    path = tmp_path / "text"
    config = DataConfig([str(path)], cache=str(tmp_path / "cache"))
    path.write_bytes(bytes(16))
    with pytest.raises(UserError, match=r"text is too short: it has 16 bytes.*take 17"):
        open_data(config, 8)
    path.write_bytes(bytes(17))
    assert len(open_data(config, 8).train) == 1
    with pytest.raises(UserError, match=r"--data\.validation is 1"):
        open_data(DataConfig([str(path)], validation=1), 8)


def test_consecutive_windows(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(bytes(range(25)))
    windows = consecutive_windows(str(path), "bytes", 8, 256)
    assert windows.batch(windows.spread(0))[1].tolist() == np.arange(1, 25).reshape(3, 8).tolist()
    with pytest.raises(UserError, match="too short: it has 25 bytes, a window takes 26"):
        consecutive_windows(str(path), "bytes", 25, 256)
    with pytest.raises(UserError, match="absent"):
        consecutive_windows(str(tmp_path / "absent"), "bytes", 8, 256)


def test_the_default_is_pythons_library(tmp_path):
    recipe = plan_text([])
    assert len(recipe.sources) > 100
    assert all(path.endswith(".py") and "site-packages" not in path for path, *_ in recipe.sources)
    assert any(path.endswith("/argparse.py") for path, *_ in recipe.sources)
    data = open_data(DataConfig(cache=str(tmp_path)), 256)
    assert data.length > 5_000_000 and "standard library" in data.describe()


def test_the_cache_can_be_moved(text, tmp_path):
    good = joined(tmp_path / "cache", text)
    shutil.move(tmp_path / "cache", tmp_path / "other")
    assert joined(tmp_path / "other", text) == good
    (entry,) = (tmp_path / "other").iterdir()
    assert json.loads((entry / "meta.json").read_text())["files"] == {"content.bin": 15}


def test_bigram_against_counting():
    stream = Stream([np.random.default_rng(0).integers(0, 4, 203)])
    train, validation = (
        Windows(stream, 2, numbers) for numbers in (np.arange(70), np.arange(70, 101))
    )
    counts = np.ones((4, 4))
    for number in range(70):
        for a, b in zip(*(part[0] for part in train.batch(np.array([number]))), strict=True):
            counts[a, b] += 1
    looks = validation.spread(9)
    losses = [
        -np.log(counts[a, b] / counts[a].sum())
        for a, b in zip(*(part.ravel() for part in validation.batch(looks)), strict=True)
    ]
    assert len(losses) == 18
    assert bigram_loss(train, validation, looks, 4) == pytest.approx(np.mean(losses), rel=1e-12)
