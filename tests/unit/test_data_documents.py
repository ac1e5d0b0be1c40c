"""Which documents samples are made of; and what is said where there are none."""

import numpy as np
import pytest

from hpcpar.data import DataConfig, consecutive_windows, open_data
from hpcpar.data.skew import class_counts, document_skew, farthest_share, wasted_by_padding
from hpcpar.errors import UserError
from hpcpar.parallel.sequence_cost import SequenceCost, fit_cost


def opened(tmp_path, paths, kind="bytes", context=4, **settings):
    config = DataConfig(
        list(map(str, paths)), kind, cache=str(tmp_path / "cache"), documents=True, **settings
    )
    return open_data(config, context)


def numbers(data):
    """The documents of all windows, in the order of the windows."""
    parts = (data.train, data.validation)
    rows = [row for part in parts for row in part.documents(part.spread(0)).tolist()]
    return sorted(rows)


def test_each_file_is_a_document(tmp_path):
    for name, size in (("a", 3), ("b", 0), ("c", 9), ("d", 1), ("e", 4)):
        (tmp_path / name).write_bytes(bytes(size))
    data = opened(tmp_path, [tmp_path / name for name in "abcde"])
    assert data.documents.lengths.tolist() == [3, 9, 1, 4]
    assert numbers(data) == [[0, 0, 0, 1], [1] * 4, [1] * 4, [2, 3, 3, 3]]
    assert "17 bytes in 4 documents of" in data.describe()


@pytest.mark.parametrize("last", [1, 9])  # with and without a separator at the end
def test_a_separator_ends_a_document(tmp_path, last):
    tokens = np.array([1, 2, 9, 9, 3, 4, 5, 9, 6, 7, 8, 9, last], "<u2")
    for name, part in (("one.bin", tokens[:6]), ("two.bin", tokens[6:])):  # 3 4 | 5 9 is one
        (tmp_path / name).write_bytes(part.tobytes())
    paths = [tmp_path / "one.bin", tmp_path / "two.bin"]
    data = opened(tmp_path, paths, "tokens", separator=9)
    assert data.documents.lengths.tolist() == [3, 1, 4, 4, 1]
    assert numbers(data) == [[0, 0, 0, 1], [2] * 4, [3] * 4]
    plain = open_data(DataConfig(list(map(str, paths)), "tokens", cache=str(tmp_path / "c")), 4)
    assert plain.documents is None and plain.train.documents(np.arange(1)) is None
    assert plain.digest == data.digest
    (tmp_path / "both.bin").write_bytes(tokens.tobytes())
    windows = consecutive_windows(str(tmp_path / "both.bin"), "tokens", 4, 10, 9)
    assert windows.documents(windows.spread(0)).tolist() == numbers(data)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "tokens"}, "separator 50256 is outside of the vocabulary .* largest token is 7"),
        ({"kind": "tokens", "separator": 6}, "no document in .* --data.separator 6 ends none"),
        ({"kind": "table"}, "--data.documents is for text and tokens"),
        ({"stratify": True}, "--data.stratify is for tables"),
    ],
)
def test_mistakes(tmp_path, settings, words):
    (tmp_path / "x.bin").write_bytes(np.array([1, 7] * 20, "<u2").tobytes())
    with pytest.raises(UserError, match=words):
        opened(tmp_path, [tmp_path / "x.bin"], **settings)


def test_mistakes_without_documents(tmp_path):
    with pytest.raises(UserError, match=r"--data\.balance .* --data\.documents true"):
        open_data(DataConfig([], balance=True), 8)
    (tmp_path / "t.csv").write_text("1,0.5\n2,1.5\n3,7\n")
    config = DataConfig([str(tmp_path / "t.csv")], "table", stratify=True, cache=str(tmp_path))
    with pytest.raises(UserError, match=r"the targets of .* are numbers"):
        open_data(config, 1)


def test_the_figures_of_skew():
    assert wasted_by_padding(np.array([10, 1, 9]), 10) == pytest.approx(1 - 20 / 30)
    assert wasted_by_padding(np.array([11]), 10) == pytest.approx(1 - 11 / 20)
    found = document_skew(np.array([25, 1, 1, 1, 1, 1]), 2, 10, SequenceCost(1.0, 1.0).of)
    assert found.in_order.tolist() == [2 * 110 + 30 + 2 + 2, 6]
    assert found.dealt.tolist() == [250, 10]
    assert (found.before, found.after) == (254 / 130, 250 / 130)
    classes = np.array([0, 0, 1, 1])
    counts = class_counts(classes, [np.array([0, 1]), np.array([2, 3])])
    assert counts.tolist() == [[2, 0], [0, 2]] and farthest_share(counts, classes) == 0.5


@pytest.mark.parametrize(
    ("a", "b", "expected"), [(3.0, 0.5, (3.0, 0.5)), (3.0, 0.0, (3.0, 0.0)), (0.0, 2.0, (0.0, 2.0))]
)
def test_the_cost_that_was_measured_is_found(a, b, expected):
    lengths = [64, 256, 1024]
    assert fit_cost(lengths, [a * s + b * s * s for s in lengths]) == pytest.approx(
        expected, abs=1e-9
    )


def test_no_cost_is_negative():
    """Where long sequences seem cheaper a token, or short ones much dearer."""
    a, b = fit_cost([1, 2, 4], [1.0, 1.8, 3.0])
    assert b == 0 and 0.7 < a < 1
    a, b = fit_cost([1, 2, 4], [1.0, 5.0, 25.0])
    assert a == 0 and 1 < b < 2
