"""nanoGPT's and llm.c's files of tokens."""

import numpy as np
import pytest

from hpcpar.data import DataConfig, consecutive_windows, open_data
from hpcpar.errors import UserError

TOKENS = np.random.default_rng(0).integers(0, 50257, 200)


def write(path, tokens=TOKENS, magic=0, version=1, count=None):
    """A file of llm.c's, or of nanoGPT's without a magic number."""
    content = tokens.astype("<u4" if magic == 20240801 else "<u2").tobytes()
    if magic:
        header = np.zeros(256, "<i4")
        header[:3] = magic, version, len(tokens) if count is None else count
        content = header.tobytes() + content
    path.write_bytes(content)
    return str(path)


def opened(tmp_path, *paths, context=8):
    return open_data(DataConfig(list(paths), "tokens", cache=str(tmp_path / "cache")), context)


def inputs(data):
    """All inputs of a dataset, sorted by row."""
    parts = (part.batch(part.spread(0))[0] for part in (data.train, data.validation))
    return sorted(np.concatenate(list(parts)).tolist())


@pytest.mark.parametrize(("magic", "version"), [(0, 0), (20240520, 1), (20240801, 7)])
def test_formats(tmp_path, magic, version):
    data = opened(tmp_path, write(tmp_path / "x.bin", magic=magic, version=version))
    assert inputs(data) == sorted(TOKENS[:192].reshape(24, 8).tolist())
    assert (data.length, data.vocabulary) == (200, TOKENS.max() + 1)
    assert data.digest == opened(tmp_path, write(tmp_path / "plain.bin")).digest


def test_several_files_are_one_sequence(tmp_path):
    one = write(tmp_path / "1.bin", TOKENS[:77])
    two = write(tmp_path / "2.bin", TOKENS[77:], 20240801, 7)
    (tmp_path / "notes.txt").write_text("not tokens")
    whole = opened(tmp_path, write(tmp_path / "whole", TOKENS))
    for paths in ([one, two], [str(tmp_path)]):
        assert opened(tmp_path, *paths).digest == whole.digest
        assert inputs(opened(tmp_path, *paths)) == inputs(whole)


def test_large_token_numbers(tmp_path):
    data = opened(tmp_path, write(tmp_path / "x.bin", TOKENS + 128_000, 20240801, 7))
    assert data.vocabulary == TOKENS.max() + 128_001
    with pytest.raises(UserError, match="no model's vocabulary"):
        opened(tmp_path, write(tmp_path / "x.bin", TOKENS + 2**31, 20240801, 7))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"magic": 20240520, "count": 201}, "damaged: its header tells 201 tokens, it holds 200"),
        ({"magic": 20240520, "version": 2}, "version 2"),
        ({"tokens": TOKENS[:16]}, "too short: it has 16 tokens.*17"),
        ({"tokens": TOKENS[:0]}, "no tokens in"),
        ({"magic": 20240520, "tokens": TOKENS[:0]}, "too short: it has 0 tokens"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path, content, words):
    path = write(tmp_path / "x.bin", **content)
    with pytest.raises(UserError, match=words) as error:
        opened(tmp_path, path)
    assert "x.bin" in str(error.value)


def test_what_is_wrong_with_paths(tmp_path):
    (tmp_path / "odd.bin").write_bytes(b"odd")
    with pytest.raises(UserError, match=r"odd\.bin has 3 bytes"):
        opened(tmp_path, str(tmp_path / "odd.bin"))
    with pytest.raises(UserError, match=r"--data\.paths"):
        opened(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"no tokens in .*folder"):
        opened(tmp_path, str(tmp_path / "folder"))


def test_an_edit_is_seen(tmp_path):
    path = tmp_path / "x.bin"
    first = opened(tmp_path, write(path))
    assert opened(tmp_path, write(path, TOKENS[::-1])).digest != first.digest


def test_consecutive_windows(tmp_path):
    windows = consecutive_windows(write(tmp_path / "x.bin", magic=20240520), "tokens", 99, 1 << 16)
    assert windows.batch(np.arange(2))[1].tolist() == [
        TOKENS[1:100].tolist(),
        TOKENS[100:199].tolist(),
    ]


def test_a_token_that_the_model_does_not_know(tmp_path):
    path = tmp_path / "x.bin"
    np.array([1, 2, 700, 3, 4, 5], np.uint16).tofile(path)
    assert len(consecutive_windows(str(path), "tokens", 2, 701)) == 2
    with pytest.raises(UserError, match=r"token 700.* below 700"):
        consecutive_windows(str(path), "tokens", 2, 700)
