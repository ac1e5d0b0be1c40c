"""python -m hpcpar monitor: what it makes of files, whatever is in them."""

import json
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from hpcpar.recovery.events import Events
from hpcpar.run import RunFolder
from hpcpar.tools.monitor.reading import read, state
from hpcpar.tools.monitor.view import draw, sparkline

FILES = ("metrics.jsonl", "events.jsonl", "ranks.json", "config.toml", "summary.json")
ROW = {"step": 7, "loss": 2.5, "seconds": 0.5, "tokens_per_second": 1000.0, "validation_loss": 2.75}
RANK = {"rank": 3, "host": "node17", "wall": 0.5, "compute": 0.25, "communication": 0.1,
        "wait": 0.0, "memory": 2e9, "gpu_memory": None, "straggler": 1.6}  # fmt: skip
WHOLE = {
    "metrics.jsonl": json.dumps(ROW) + "\n",
    "events.jsonl": json.dumps({"time": "t", "step": 5, "kind": "lost", "text": "rank 1"}) + "\n",
    "ranks.json": json.dumps({"step": 7, "ranks": [RANK]}),
    "config.toml": "steps = 20\n",
    "summary.json": json.dumps({"steps": 20}),
}


def shown(folder, now=None):
    console = Console(width=120, highlight=False, markup=False)
    with console.capture() as capture:
        console.print(draw(read(folder), time.time() if now is None else now))
    return capture.get()


def fill(folder, names=FILES[:4]):
    for name in names:
        (folder / name).write_text(WHOLE[name])
    return folder


def test_a_running_run(tmp_path):
    (fill(tmp_path) / "checkpoints" / "step-00000005").mkdir(parents=True)
    (tmp_path / "checkpoints" / ".step-00000007.partial").mkdir()
    text = shown(tmp_path)
    for words in ("running", "step 7 of 20, 1,000 tokens/s", "6 s left", "loss 2.5000",
                  "validation loss 2.7500", "newest checkpoint: step 5", "node17", "2.00 GB",
                  "straggler: 1.6 times", "lost: rank 1"):  # fmt: skip
        assert words in text, text


def test_states(tmp_path):
    assert state(read(tmp_path / "absent"), 0)[0] == "absent"
    now = time.time()
    fill(tmp_path)
    assert state(read(tmp_path), now + 5)[0] == "running"
    assert state(read(tmp_path), now + 3630) == (
        "silent", "silent: it has written nothing for 60 min",
    )  # fmt: skip
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "failed", "text": "no disk"}) + "\n")
    assert state(read(tmp_path), now) == ("stopped", "failed: no disk")
    fill(tmp_path, FILES)
    assert state(read(tmp_path), now)[0] == "done"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from(sorted({*ROW, *RANK, "kind", "text"})), json_values))
def test_values_of_any_type_are_shown_or_left_out(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("run")
    for name in ("metrics.jsonl", "events.jsonl"):
        (folder / name).write_text(json.dumps({"step": 1} | values) + "\n")
    (folder / "ranks.json").write_text(json.dumps({"step": values, "ranks": [values, 3]}))
    assert shown(folder).startswith(str(folder)[:20])


def test_damaged_files_are_no_trouble(tmp_path):
    """Bytes changed, cut off, put in; and a curve of numbers that are none."""
    rng = random.Random(5)
    for _ in range(100):
        for name in FILES:
            data = bytearray(WHOLE[name].encode())
            for _ in range(rng.randrange(4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            (tmp_path / name).write_bytes(data[: rng.randrange(len(data) + 1)])
        assert str(tmp_path)[:20] in shown(tmp_path)
    (tmp_path / "ranks.json").write_text("[" * 100_000)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1e400, "loss": NaN}\n{"step": 2}\n')
    assert shown(tmp_path)


def test_things_that_are_no_files_are_no_trouble(tmp_path):
    import os

    for name in FILES[:3]:
        os.mkfifo(tmp_path / name)
    for name in FILES[3:]:
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoints").write_text("")
    assert shown(tmp_path)


@pytest.mark.parametrize("text", ["\x1b[2J", "[red]x[/nothing]", "a\nb\rc"])
def test_texts_cannot_command_the_terminal(tmp_path, text):
    (tmp_path / "events.jsonl").write_text(json.dumps({"kind": "k", "text": text}) + "\n")
    out = shown(tmp_path)
    assert "\x1b" not in out and "\r" not in out and out.count("\n") <= 6


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), max_size=50))
def test_a_sparkline_has_a_sign_a_value_and_keeps_their_order(values):
    line = sparkline(values)
    assert len(line) == len(values)
    for a, b in zip(zip(values, line, strict=True), list(zip(values, line, strict=True))[1:],
                    strict=False):  # fmt: skip
        assert (a[0] <= b[0]) <= (a[1] <= b[1])


def test_events_wait_for_a_folder_and_are_never_rewritten(tmp_path):
    (tmp_path / "events.jsonl").write_text('{"kind": "whole"}\n{"kind": "cut o')
    one, other = Events(), Events()  # of two ranks
    for events in (one, other):
        events.add("lost", "rank 2", 3)
    one.open(RunFolder(tmp_path))
    other.open(None)
    for events in (one, other):
        events.add("straggler", "rank 1", 5)
        events.close()  # rank 0, which was the first, is lost
        events.add("lost", "rank 0", 6)
        events.close()
    other.open(RunFolder(tmp_path))
    text = (tmp_path / "events.jsonl").read_text().splitlines()
    assert text[:2] == ['{"kind": "whole"}', '{"kind": "cut o']
    assert [(row["step"], row["text"]) for row in map(json.loads, text[2:])] == [
        (3, "rank 2"), (5, "rank 1"), (6, "rank 0"),
    ]  # fmt: skip
