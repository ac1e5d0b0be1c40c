"""The records that ranks compare, and the sentences about those that differ."""

import numpy as np
import pytest

from hpcpar.comm.mismatch import collective_mismatch, message_mismatch
from hpcpar.comm.record import RECORD, Record


def test_the_sentence_names_ranks_values_and_places():
    most, other = "allreduce\nfloat32[100]\nop sum", "allreduce\nfloat64[100]\nop sum"
    records = [Record(most, "train.py:139")] * 3 + [Record(other, "train.py:141")]
    assert collective_mismatch(118, records) == (
        "allreduce #118: rank 3 has float64[100] at train.py:141 "
        "where ranks 0 to 2 have float32[100] at train.py:139"
    )


@pytest.mark.parametrize(
    ("odd", "who"),
    [
        ([4], "rank 4"),
        ([1, 2], "ranks 1 and 2"),
        ([1, 4], "ranks 1 and 4"),
        ([2, 3, 4], "ranks 2 to 4"),
        ([0, 2, 3, 4, 9], "ranks 0, 2 to 4 and 9"),
    ],
)
def test_ranks_that_say_the_same_are_named_together(odd, who):
    records = [Record("bcast" if rank in odd else "barrier", f"a.py:{rank}") for rank in range(12)]
    first = min(set(range(12)) - set(odd))
    sentence = collective_mismatch(1, records)
    verb = "is" if len(odd) == 1 else "are"
    assert sentence.startswith(f"{who} {verb} in bcast #1 at a.py:{odd[0]} where ranks ")
    assert sentence.endswith(f" are in barrier #1 at a.py:{first}")


def test_what_could_not_start_comes_first():
    records = [Record("barrier", "a.py:1"), Record("bcast", "a.py:2", "no such root")]
    assert collective_mismatch(7, records) == (
        "rank 1 could not start bcast #7: no such root (a.py:2)"
    )
    assert message_mismatch(3, 0, records[0], 1, records[1]) == (
        "message from rank 0 to rank 1 with tag 3: rank 1 could not start bcast: no such root "
        "(a.py:2)"
    )


def test_records_travel():
    record = Record("allreduce\nfloat32[2, 3]\nop sum", "/a/naïve.py:141", "")
    assert Record.unpack(bytearray(record.pack().ljust(RECORD, b"\0"))) == record
    assert record.pack().startswith(record.prefix)
    assert (record.operation, record.facts) == ("allreduce", ["float32[2, 3]", "op sum"])
    for other in (
        record._replace(agreed="allreduce\nfloat32[2, 3]"),
        record._replace(agreed=record.agreed + "\nroot 0"),
        record._replace(failure="no"),
    ):
        assert not other.pack().startswith(record.prefix)
    assert record._replace(where="b.py:1").pack().startswith(record.prefix)


def test_long_records_are_cut():
    record = Record("x" * 5000, "ä" * 5000 + ".py:141", "ö" * 5000)
    raw = record.pack()
    assert len(raw) <= RECORD
    assert Record.unpack(bytearray(raw)).where.endswith(".py:141")


def test_records_of_equal_ranks_are_equal():
    one, two = (Record(f"x\n{np.dtype('f4').name}[{n}]", "a:1") for n in (3, 3))
    assert one.prefix == two.prefix
