"""Whether a job is started again: bounded, on fewer ranks where that may help."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.errors import EXIT_HANG, EXIT_REQUEUE, UserError
from hpcpar.launch import launch
from hpcpar.launch.arguments import parse, setting
from hpcpar.launch.attempts import Attempts

STATUSES = st.sampled_from([1, 3, 137, 143])


@given(st.integers(1, 9), st.integers(0, 6), st.lists(st.tuples(STATUSES, st.integers(0, 5))))
def test_no_more_restarts_in_a_row_than_asked_for_without_a_new_step(ranks, restarts, ends):
    attempts, newest, made = Attempts(ranks, restarts, 1), 0, 0
    for status, step in ends:
        before = attempts.ranks
        again = attempts.ended(status, step)
        if step > newest:
            newest, made = step, 0
        assert again == (made < restarts)
        assert before - attempts.ranks in (0, 1) and attempts.ranks >= 1
        if not again:
            break
        made += 1


@pytest.mark.parametrize("status", [0, 2, 75])
def test_what_is_at_its_end_is_not_started_again(status):
    assert not Attempts(4, 5, 1).ended(status, 0)


def test_two_failures_of_as_many_ranks_take_one_away():
    attempts, seen = Attempts(4, 9, 3), []
    for step in (5, 5, 5, 7, 7, 7, 7):
        attempts.ended(137, step)
        seen.append(attempts.ranks)
    assert seen == [4, 4, 3, 3, 3, 3, 3]


def test_ranks_that_fit_into_no_layout_are_one_too_many():
    attempts = Attempts(4, 9, 1)
    for _ in range(2):
        attempts.ended(1, 0)
    assert attempts.ranks == 3 and attempts.ended(2, 0) and attempts.ranks == 2


def test_there_must_be_room_for_the_least():
    attempts = Attempts(8, 5, 4)
    assert attempts.limit(6) and attempts.ranks == 6
    assert not attempts.limit(3)


def test_the_command_line_is_cut_at_two_dashes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = parse(
        ["-n", "2", "--hosts", "a:2,b", "--", "--bind-to", "core", "--", "sh", "x"], "/bin"
    )
    assert given.hosts == {"a": 2, "b": 1} and given.options == ("--bind-to", "core")
    assert given.program[:3] == ("sh", "x", "--run.dir") and str(given.folder) == given.program[3]
    named = parse(["-n", "2", "--", "sh", "--run.dir=runs/a"], "/bin")
    assert named.program == ("sh", "--run.dir=runs/a") and str(named.folder) == "runs/a"


def test_a_setting_is_read_as_training_reads_it(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('recovery = "shrink"\n[run]\ndir = "runs/b"\n')
    assert setting(["x", str(file)], "run.dir") == "runs/b"
    assert setting(["x", str(file)], "recovery") == "shrink"
    assert setting(["x", str(file), "--recovery", "none"], "recovery") == "none"
    file.write_text("not TOML")
    assert setting(["x", str(file)], "run.dir") == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("-n 0 -- sh", "-n is 0; it must be at least 1"),
        ("-n x -- sh", "invalid int value"),
        ("-- sh", "required: -n"),
        ("-n 2", "there is no program"),
        ("-n 2 -- no-such-program", "no-such-program is not there"),
        ("-n 2 --restarts -1 -- sh", "--restarts is -1"),
        ("-n 2 --min-ranks 3 -- sh", "--min-ranks is 3"),
        ("-n 2 --hosts a:x -- sh", "--hosts takes"),
        ("-n 2 --frobnicate -- sh", "--frobnicate"),
    ],
)
def test_mistakes_are_told(words, said):
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        parse(words.split(), "/bin:/usr/bin")


def test_no_room_for_lost_ranks_to_come_back_to_is_told(tmp_path, monkeypatch, capsys):
    """Not tried on no rank at all."""
    (tmp_path / "events.jsonl").write_text('{"kind": "regrow"}\n')
    monkeypatch.setattr(launch, "reachable", lambda *_: {"a": 1})
    launcher = launch._Launcher(
        [
            "-n",
            "3",
            "--min-ranks",
            "2",
            "--hosts",
            "a:1,b:2",
            "--",
            "sh",
            "--run.dir",
            str(tmp_path),
        ]
    )
    assert launcher._end(3, EXIT_REQUEUE, False) == EXIT_HANG
    assert "room for fewer than 2 ranks" in capsys.readouterr().err
