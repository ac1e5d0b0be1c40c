"""Tables, and what is wrong with one, by row and column."""

import gzip

import numpy as np
import pytest

from hpcpar.data.dataset import split
from hpcpar.data.table import read_table
from hpcpar.errors import UserError

ROWS = "1,2,0\n3,4.5,1\n\n5,-6e1,2\n"


@pytest.mark.parametrize("header", ["", "a,b,y\n"])
@pytest.mark.parametrize("packed", [False, True])
def test_csv(tmp_path, header, packed):
    path = tmp_path / ("t.csv.gz" if packed else "t.csv")
    content = (header + ROWS).encode()
    path.write_bytes(gzip.compress(content) if packed else content)
    table = read_table(str(path))
    assert np.array_equal(table.x, np.array([[1, 2], [3, 4.5], [5, -60]], np.float32))
    assert table.y.tolist() == [0, 1, 2]
    assert (table.task, table.features, table.outputs, len(table)) == ("classification", 2, 3, 3)


def test_numbers_as_targets(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("1,0.5\n2,1.5\n")
    table = read_table(str(path))
    assert table.task == "regression" and table.y.tolist() == [[0.5], [1.5]]
    path.write_text("1,0\n2,1\n")
    assert read_table(str(path), "regression").task == "regression"
    path.write_text("1,0.5\n2,1\n")
    with pytest.raises(UserError, match="whole numbers"):
        read_table(str(path), "classification")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,b,y\n1,2,0\n3,,1\n", ["row 3", "column 2 (b)", "missing"]),
        ("1,2,0\nnan,3,1\n", ["row 2", "column 1", "missing"]),
        ("1,2,0\n3,four,1\n", ["row 2", "column 2", "'four' is not a number"]),
        ("1,2,0\n3,4\n", ["row 2", "2 columns"]),
        ("1,inf,0\n", ["row 1", "column 2"]),
        ("", ["empty"]),
        ("a,b,y\n", ["empty"]),
        ("1\n2\n", ["one column"]),
    ],
)
def test_what_is_wrong_with_a_csv(tmp_path, content, words):
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        read_table(str(path))
    assert all(word in str(error.value) for word in [*words, "t.csv"])


def test_npz(tmp_path):
    path = tmp_path / "t.npz"
    x, y = np.arange(6.0).reshape(3, 2), np.array([0, 1, 0])
    np.savez(path, x=x, y=y)
    assert np.array_equal(read_table(str(path)).x, x.astype(np.float32))
    x[1, 1] = np.nan
    np.savez(path, x=x, y=y)
    with pytest.raises(UserError, match="row 2, column 2: a value is missing"):
        read_table(str(path))
    np.savez(path, x=x)
    with pytest.raises(UserError, match="no array y"):
        read_table(str(path))
    np.savez(path, x=np.array([{}, {}]), y=y[:2])
    with pytest.raises(UserError, match="cannot be read"):
        read_table(str(path))
    path.write_bytes(b"PK not a zip")
    with pytest.raises(UserError, match="cannot be read"):
        read_table(str(path))


def test_bundled_data():
    pytest.importorskip("sklearn")
    digits = read_table("sklearn:digits")
    assert (len(digits), digits.features, digits.outputs) == (1797, 64, 10)
    assert read_table("sklearn:diabetes").task == "regression"
    with pytest.raises(UserError, match="digits"):
        read_table("sklearn:faces")


def test_features_are_standardized_by_the_training_part():
    pytest.importorskip("sklearn")
    table = read_table("sklearn:wine")
    train, validation = split(table, 0.2)
    table.standardize(train.numbers)
    known = train.batch(np.arange(len(train)))[0].astype(np.float64)
    assert np.allclose(known.mean(axis=0), 0, atol=1e-6) and np.allclose(
        known.std(axis=0), 1, atol=1e-6
    )
    assert not np.allclose(
        validation.batch(np.arange(len(validation)))[0].mean(axis=0), 0, atol=1e-3
    )
