"""The table of a hang: a row a rank, or one for all that do the same; and its words."""

from recorded import Ranks, four

from hpcpar.comm.flight.rows import missing_row
from hpcpar.comm.flight.table import table
from hpcpar.comm.flight.words import rank_names, seconds_text, size_text


def test_the_table_of_a_few():
    ranks = four()
    ranks.enter("allreduce", 118, but=(2, 3), size=4096)
    ranks[3].enter("recv", 1, line=150, peer=2, size=8)
    ranks[2].compute("/home/me/data.py:33", "/usr/lib/python3.11/zipfile.py:7")
    assert table([*ranks.rows(), missing_row(4)]).splitlines() == [
        "rank  host   state    call                    for   at                    before",
        "0     node0  waits    allreduce #118, 4.1 KB  12 s  train.py:141          bcast #117",
        "1     node0  waits    allreduce #118, 4.1 KB  12 s  train.py:141          bcast #117",
        "2     node0  outside                          12 s  …:33 in zipfile.py:7  bcast #117",
        "3     node0  waits    recv from 2, 8 B        12 s  train.py:150          bcast #117",
        "4     ?      missing",
    ]


def test_the_table_of_many_has_a_line_for_those_that_do_the_same():
    ranks = Ranks(128)
    ranks.enter("allreduce", 118, but=(3,))
    ranks[3].enter("recv", 1, peer=2)
    lines = table(ranks.rows()).splitlines()
    assert [line.split()[0] for line in lines] == ["rank", "0-2,4-127", "3"]
    assert "32 hosts" in lines[1] and "node0" in lines[2]


def test_words():
    assert rank_names([3]) == "rank 3"
    assert rank_names([5, 0]) == "ranks 0 and 5"
    assert rank_names([0, 1, 2, 5, 7]) == "ranks 0-2, 5 and 7"
    assert rank_names(range(0, 40, 2)) == "ranks 0, 2, 4, 6 and 16 more"
    assert [seconds_text(s) for s in (0.31, 12.4, 700, 9000)] == [
        "0.3 s",
        "12 s",
        "12 min",
        "2.5 h",
    ]
    assert [size_text(n) for n in (0, 999, 1000, 67_108_864)] == ["0 B", "999 B", "1.0 KB", "67 MB"]
