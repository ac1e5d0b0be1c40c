"""Tables: what is read, what becomes of it, and what is wrong with one, by row and column."""

import gzip
import importlib.metadata

import numpy as np
import pytest

from hpcpar.data import DataConfig, open_data
from hpcpar.errors import UserError

ROWS = "1,2,0\n3,4.5,1\n\n5,-6e1,2\n"
X = np.array([[1, 2], [3, 4.5], [5, -60]])


def opened(tmp_path, *paths, **settings):
    config = DataConfig(list(map(str, paths)), "table", cache=str(tmp_path / "cache"), **settings)
    return open_data(config, 1)


def rows(data):
    """All rows as they were measured, before the features were standardized, and all targets."""
    numbers = np.concatenate([part._numbers for part in (data.train, data.validation)])
    x, y = zip(*(part.batch(part.spread(0)) for part in (data.train, data.validation)), strict=True)
    order = np.argsort(numbers)
    mean, deviation = data.train._scaling.of(range(data.features))
    measured = np.concatenate(x) * deviation + mean
    return measured[order], np.concatenate(y)[order]


@pytest.mark.parametrize("header", ["", "a,b,y\n", '"a, b",c,\n', "\ufeffa,b,y\r\n"])
@pytest.mark.parametrize("packed", [False, True])
def test_csv(tmp_path, header, packed):
    path = tmp_path / ("t.csv.gz" if packed else "t.csv")
    content = (header + ROWS).encode()
    path.write_bytes(gzip.compress(content) if packed else content)
    data = opened(tmp_path, path)
    x, y = rows(data)
    assert np.allclose(x, X) and y.tolist() == [0, 1, 2] and y.dtype == np.int64
    assert (data.task, data.features, data.outputs, data.length) == ("classification", 2, 3, 3)
    assert "3 rows" in data.describe() and "3 classes" in data.describe()


def test_numbers_as_targets(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("1,0.5\n2,1.5\n3,7\n")
    data = opened(tmp_path, path)
    assert (data.task, data.outputs) == ("regression", 1)
    assert rows(data)[1].tolist() == [[0.5], [1.5], [7]] and rows(data)[1].dtype == np.float32
    with pytest.raises(UserError, match=r"target 0\.5, which is no class"):
        opened(tmp_path, path, task="classification")
    path.write_text("1,-1.0\n2,1.0\n3,1.0\n")
    assert opened(tmp_path, path).task == "regression"
    assert rows(opened(tmp_path, path, task="classification"))[1].tolist() == [0, 1, 1]
    path.write_text("1,10\n2,30\n3,10\n")
    assert rows(opened(tmp_path, path))[1].tolist() == [0, 1, 0]
    assert rows(opened(tmp_path, path, task="regression"))[1].tolist() == [[10], [30], [10]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,b,y\n1,2,0\n3,,1\n", ["row 3", "column 2 (b)", "missing"]),
        ("1,2,0\n\n3,four,1\n", ["row 3", "column 2:", "'four'", "no finite number"]),
        ("1,2,0\nnan,3,1\n", ["row 2", "column 1", "'nan'"]),
        ("1,2,0\n3,4,-inf\n", ["row 2", "column 3", "'-inf'"]),
        ("a,b,3\n1,2,0\n", ["row 1", "column 1", "'a'"]),
        (",,\n1,2,0\n", ["row 1", "column 1", "missing"]),
        ("1,2,0\n3,4\n", ["row 2", "2 columns", "3"]),
        ("1\n2\n", ["row 1", "one column"]),
        ("a,y\n", ["no rows"]),
        ("", ["no rows"]),
        ("1,2\n", ["1 row"]),
        ('1,"2\n', ["cannot be read"]),
        ("1,\xff\n", ["row 1", "column 2"]),
    ],
)
def test_what_is_wrong_with_a_csv(tmp_path, content, words):
    path = tmp_path / "t.csv"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError) as error:
        opened(tmp_path, path)
    assert all(word in str(error.value) for word in [*words, "t.csv"]), str(error.value)


def test_what_is_wrong_with_a_gz(tmp_path):
    path = tmp_path / "t.csv.gz"
    whole = gzip.compress(ROWS.encode())
    for content in (b"1,2\n3,4\n", whole[:-9], whole[:-8] + bytes(8)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"t\.csv\.gz cannot be read"):
            opened(tmp_path, path)


def test_npz(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, x=X, y=np.array([True, False, True]))
    data = opened(tmp_path, path)
    assert np.allclose(rows(data)[0], X) and rows(data)[1].tolist() == [1, 0, 1]
    np.savez(path, x=X.astype(np.float32).reshape(3, 1, 2), y=X)
    data = opened(tmp_path, path)
    assert (data.task, data.features, data.outputs) == ("regression", 2, 2)
    assert np.allclose(rows(data)[1], X)
    with pytest.raises(UserError, match="2 targets a row"):
        opened(tmp_path, path, task="classification")


HOLE = X.copy()
HOLE[1, 0] = np.nan


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": X}, "two arrays, x and y"),
        ({"x": X, "y": X[:2]}, r"x is \(3, 2\) and y \(2, 2\)"),
        ({"x": X[:, 0], "y": X[:, 0]}, "must be"),
        ({"x": HOLE, "y": X}, "x is nan at row 1, column 0"),
        ({"x": X, "y": HOLE}, "y is nan at row 1, column 0"),
        ({"x": X, "y": np.array(["a", "b", "c"])}, "real numbers"),
        ({"x": np.array([["1", "2"], ["3", "red"]]), "y": X[:2]}, "x is text, 'red' at row 1, col"),
        ({"x": np.array([[b"1"], [b"2"]]), "y": X[:2]}, "x is text, b'1' at row 0, column 0"),
        ({"x": X, "y": np.array([{}, {}, {}])}, "cannot be read"),
    ],
)
def test_what_is_wrong_with_an_npz(tmp_path, arrays, words):
    path = tmp_path / "t.npz"
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=words) as error:
        opened(tmp_path, path)
    assert "t.npz" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"\x93NUMPY what", "array"])
def test_what_is_no_npz(tmp_path, content):
    if content == "array":
        np.save(tmp_path / "a.npy", X)
        content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "t.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"t\.npz cannot be read"):
        opened(tmp_path, tmp_path / "t.npz")


def test_several_sources(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "1.csv").write_text("1,2,0\n3,4.5,1\n")
    (folder / "notes.txt").write_text("not a table")
    np.savez(folder / "2.npz", x=X[2:], y=np.array([2]))
    x, y = rows(opened(tmp_path, folder))
    assert np.allclose(x, X) and y.tolist() == [0, 1, 2]
    (folder / "3.csv").write_text("1,2\n")
    with pytest.raises(UserError, match=r"3\.csv has 1 features"):
        opened(tmp_path, folder)
    with pytest.raises(UserError, match=r"notes\.txt is no table"):
        opened(tmp_path, folder / "notes.txt")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="nothing"):
        opened(tmp_path, tmp_path / "nothing")
    with pytest.raises(UserError, match=r"--data\.paths"):
        opened(tmp_path)


def test_sklearns_data_sets(tmp_path, monkeypatch):
    datasets = pytest.importorskip("sklearn.datasets")
    digits = opened(tmp_path, "sklearn:digits")
    assert (digits.task, digits.length, digits.features, digits.outputs) == (
        "classification",
        1797,
        64,
        10,
    )
    x, y = datasets.load_digits(return_X_y=True)
    assert np.allclose(rows(digits)[0], x, atol=1e-5) and np.array_equal(rows(digits)[1], y)
    assert opened(tmp_path, "sklearn:diabetes").task == "regression"
    with pytest.raises(UserError, match=r"sklearn:faces is unknown: .*digits"):
        opened(tmp_path, "sklearn:faces")

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        opened(tmp_path, "sklearn:iris")


def test_features_are_standardized_by_the_training_part(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    x = random.normal((1e6, -3, 0.1), (5, 1e-3, 0), (400, 3))  # the last column is constant
    np.savez(tmp_path / "t.npz", x=x, y=np.zeros(400))
    monkeypatch.setattr("hpcpar.data.table.BLOCK", 64)
    data = opened(tmp_path, tmp_path / "t.npz", validation=0.3)
    known, _ = data.train.batch(data.train.spread(0))
    other, _ = data.validation.batch(data.validation.spread(0))
    assert known.dtype == np.float32 and known.flags.c_contiguous
    known, other = known.astype(np.float64), other.astype(np.float64)
    assert np.allclose(known.mean(axis=0), 0, atol=1e-5)
    assert np.allclose(known.std(axis=0), [1, 1, 0], atol=1e-5)
    assert np.abs(other[:, :2].mean(axis=0)).min() > 1e-4, "these had no part in it"


def test_the_cached_table_is_not_changed_by_reading(tmp_path):
    (tmp_path / "t.csv").write_text(ROWS)
    data = opened(tmp_path, tmp_path / "t.csv")
    first = data.train.batch(data.train.spread(0))[0].copy()
    data.train.batch(data.train.spread(0))[0][...] = 0
    assert np.array_equal(data.train.batch(data.train.spread(0))[0], first)
