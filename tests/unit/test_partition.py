"""What ranks have of the data, by sample, by batch and by feature: pure, in one process."""

from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.config import parse
from hpcpar.data import Course, DataConfig, Part, Sampler, make_sampler
from hpcpar.data.table import Rows, Scaling
from hpcpar.errors import UserError
from hpcpar.nn import gpt, linear, mlp
from hpcpar.parallel import BatchConfig, ParallelConfig, tensor_parallel
from hpcpar.parallel.layout import Layout
from hpcpar.parallel.partition import check_batches, check_workers
from hpcpar.parallel.place import Place


def used_by(rank, layout, indices):
    """The samples that a data-parallel rank goes through in a step, of these."""
    micros = indices.reshape(-1, layout.batch.micro)
    own = [micros[slot.micro] for slot in layout.slots[rank] if slot.micro >= 0]
    return np.concatenate([np.empty(0, int), *own])


@pytest.mark.parametrize("partition", ["sample", "batch"])
@pytest.mark.parametrize("number", range(50))
def test_exactly_once_an_epoch(number, partition):
    """Whatever stops, and on however many ranks it is resumed: as `train.py` goes through it."""
    random = Random(f"{partition} {number}")
    batch = BatchConfig(2 * random.randrange(1, 6), 2, random.randrange(1, 9))
    samples, seed = random.randrange(8 * batch.size, 12 * batch.size), random.randrange(9)
    step, state, used = 0, (0, 0), []
    while len(used) < 3 * samples:
        ranks, zero = random.randrange(1, 9), random.randrange(4)
        layout = Layout(ParallelConfig(zero=zero), batch, ranks, partition=partition)
        course = Course.resumed(step, state, samples, batch.size)  # from a checkpoint
        course = replace(course, each=layout.batches)
        sampler, stop = Sampler(samples, batch.size, seed, course), step + random.randrange(7)
        for now in range(step, stop + random.randrange(3)):  # the last ones are lost
            indices = sampler.indices(now)
            places = [used_by(rank, layout, np.arange(len(indices))) for rank in range(ranks)]
            if now < stop:
                used += indices[np.sort(np.concatenate(places))].tolist()
        step, state = stop, sampler.state(stop)
        assert state == divmod(len(used), samples)
    for start in range(0, len(used), samples):
        epoch = Counter(used[start : start + samples])
        assert set(epoch.values()) == {1}, "none twice"
        assert len(epoch) == min(samples, len(used) - start), "none missing"
    assert max(used) == samples - 1


@given(
    st.integers(1, 6), st.integers(1, 8), st.integers(1, 9), st.integers(0, 1),
    st.sampled_from(["ranks", "layout", "off"]), st.booleans(),
)  # fmt: skip
def test_by_batch_every_rank_has_a_whole_one(micros, leaves, ranks, zero, order, uneven):
    batch = BatchConfig(2 * micros, 2, leaves)
    speeds = tuple(range(1, ranks + 1)) if uneven else ()
    layout = Layout(ParallelConfig(zero=zero, speeds=speeds), batch, ranks, order, "batch")
    sampler = Sampler(500, batch.size, 3, Course(4, 7, ranks))
    indices, plain = sampler.indices(6), Sampler(500, batch.size, 3)
    assert len(indices) == layout.samples == ranks * batch.size
    for rank in range(ranks):
        number = 7 + 2 * ranks + rank  # what was used before, and one for each rank
        assert np.array_equal(used_by(rank, layout, indices), plain.indices(number))
    assert layout.idle_ranks == 0
    assert sorted(m for leaf in layout.leaves for m in leaf) == list(range(ranks * micros))


class Uneven(Part):
    """Samples of 16 tokens in documents, of three classes."""

    targets_per_sample = 16
    classes = np.arange(100) % 7 % 3

    def __len__(self):
        return 100

    def batch(self, indices):
        raise NotImplementedError

    def documents(self, indices):
        return np.cumsum(np.random.default_rng(1).random((100, 16)) < 0.2, axis=1)[indices]


@pytest.mark.parametrize("kind", [{}, {"balance": True, "documents": True}, {"stratify": True}])
def test_by_batch_a_rank_has_the_batch_of_a_step_by_sample(kind):
    """Also where the samples of a batch are put into an order, or its classes are even."""
    plain, four = (
        make_sampler(Uneven(), DataConfig(**kind), 12, 2, 3, 5, course)
        for course in (None, Course(2, 2, 4))
    )
    for step in range(2, 8):
        first = 2 + 4 * (step - 2)
        batches = [plain.indices(number) for number in range(first, first + 4)]
        assert np.array_equal(four.indices(step), np.concatenate(batches))


@given(st.integers(1, 30), st.integers(0, 20), st.integers(1, 9), st.integers(0, 40))
def test_a_course_goes_on_from_its_step(step, used, each, later):
    course = Course(step, used, each)
    assert course.before(step) == used
    assert course.before(step + later) == used + later * each
    state = Sampler(37, 5, 0, course).state(step + later)
    assert Course.resumed(step + later, state, 37, 5).used == used + later * each
    with pytest.raises(ValueError, match=f"step is {step - 1}; the first one is {step}"):
        Sampler(37, 5, 0, course).indices(step - 1)


@given(st.integers(2, 9), st.integers(1, 40), st.data())
def test_a_loader_reads_its_columns_only(features, rows, data):
    """The other columns hold what would spoil everything; the bits are those of all columns."""
    start = data.draw(st.integers(0, features - 1))
    columns = range(start, data.draw(st.integers(start + 1, features)))
    random = np.random.default_rng(rows)
    x, y = random.normal(5, 3, (rows, features)), random.integers(0, 3, rows)
    every = np.arange(rows)
    whole, _ = Rows(x, y, every, Scaling(x, every)).batch(every[::-1])
    spoilt = np.full_like(x, np.nan)
    spoilt[:, columns.start : columns.stop] = x[:, columns.start : columns.stop]
    part = Rows(spoilt, y, every, Scaling(spoilt, every)).of_columns(columns)
    own, targets = part.batch(every[::-1])
    assert own.tobytes() == whole[:, columns.start : columns.stop].tobytes()
    assert own.flags.c_contiguous and np.array_equal(targets, y[::-1])


@pytest.mark.parametrize("columns", [range(3, 4), range(1, 3), range(5)])
def test_columns_are_standardized_by_the_same_bits(columns):
    """Whichever are with them, also none."""
    x = np.random.default_rng(4).normal(5, 3, (1000, 5))
    scaling = Scaling(x, np.arange(0, 1000, 2))
    for whole, own in zip(scaling.of(range(5)), scaling.of(columns), strict=True):
        assert own.tobytes() == whole[columns.start : columns.stop].tobytes()


@pytest.mark.parametrize(
    ("model", "axes"),
    [
        (linear(11, 3, "regression"), [0]),
        (mlp(11, 3, 8, 1, "regression"), [0, None]),
        (mlp(11, 3, 8, 2, "regression"), [0, 1, 0]),
        (mlp(11, 3, 8, 3, "regression"), [0, 1, 0, None]),
        (mlp(11, 3, 8, 4, "regression"), [0, 1, 0, 1, 0]),
    ],
)
@pytest.mark.parametrize("tiles", [None, 6])
def test_by_feature_the_first_layer_is_cut_by_its_inputs(model, axes, tiles):
    held = []
    for rank in range(3):
        shared = tensor_parallel(model, Place(rank, 3), tiles, features=True)
        weights = [p for p in shared.parameters if len(p.whole_shape) == 2]
        assert [None if p.cut is None else p.cut.axis for p in weights] == axes
        (run,) = [range(r[0].start, r[-1].stop) for r in [weights[0].cut.runs]]
        assert shared.input_shape == (len(run),)
        held += run
    assert held == list(range(11)), "every feature on one rank"
    assert tensor_parallel(model, None, None, features=True) is model


def test_by_feature_sequences_have_none():
    with pytest.raises(ValueError, match="no features to share"):
        tensor_parallel(gpt(1, 2, 8, 8, 9), Place(0, 2), None, features=True)


@pytest.mark.parametrize(
    ("keys", "ranks", "data", "tensor"),
    [
        ({"tensor": -1}, 6, 1, 6),
        ({"tensor": -1, "data": 2}, 6, 2, 3),
        ({"tensor": -1, "pipeline": 3}, 6, 1, 2),
        ({"tensor": 2}, 6, 3, 2),
    ],
)
def test_tensor_ranks_that_take_all_that_are_left(keys, ranks, data, tensor):
    sizes = ParallelConfig(**keys).sizes(ranks)
    assert (sizes["data"], sizes["tensor"]) == (data, tensor)
    assert ParallelConfig(**keys).filled(ranks).tensor == tensor


def test_by_feature_all_ranks_share_unless_others_are_named(tmp_path):
    table = ["--data.kind", "table", "--model.kind", "linear", "--data.partition", "feature"]
    assert parse(table).parallel.tensor == -1
    assert parse([*table, "--parallel.tensor", "1"]).parallel.tensor == 1
    path = tmp_path / "run.toml"
    path.write_text("[parallel]\ntensor = 2\n")
    assert parse([str(path), *table]).parallel.tensor == 2
    assert parse([]).parallel.tensor == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data.partition", "feature"], "--model.kind mlp or linear"),
        (["--data.partition", "feature", "--model.kind", "mlp"], "--data.kind bytes has none"),
        (["--data.partition", "batch", "--parallel.plan", "auto"], "sample only"),
        (["--data.partition", "batch", "--sync.servers", "1"], "leave --data.partition batch out"),
        (["--data.partition", "batch", "--sync.mode", "local"], "leave --data.partition batch out"),
        (["--data.partition", "rows"], "--data.partition"),
    ],
)
def test_what_does_not_go_together(arguments, words):
    with pytest.raises(UserError, match=words) as error:
        parse(arguments)
    assert "\n" not in str(error.value)


def test_more_ranks_than_there_is_to_share():
    check_workers(4, 4)
    with pytest.raises(UserError, match=r"5 ranks share 4 features of a table: .*tensor 4"):
        check_workers(5, 4)
    check_batches(1, 100, 10)
    check_batches(3, 10, 39)
    with pytest.raises(UserError, match=r"39 samples has 3: take at most as many"):
        check_batches(4, 10, 39)
    with pytest.raises(UserError, match=r"--parallel\.tensor is 0; it must be at least 1, or -1"):
        ParallelConfig(tensor=0).sizes(4)
