"""Training by sample, by batch and by feature: the same numbers, and the bits that are promised."""

import contextlib
import io
from dataclasses import dataclass

import numpy as np
import pytest
from long import only_on

import hpcpar
import hpcpar.train
from hpcpar.comm import Communicator
from hpcpar.data.table import Rows, Scaling
from hpcpar.data.windows import Windows
from hpcpar.fingerprint import weights_sha256
from hpcpar.nn import Arena, Flat, Model, linear, mlp
from hpcpar.optim import OptimConfig, clip_scale, make_optimizer
from hpcpar.parallel import BatchConfig, ParallelConfig, parallelize, tensor_parallel
from hpcpar.parallel.state import collect

pytestmark = pytest.mark.mpi
CONFIGURATIONS, STEPS = 30, 3


@pytest.fixture(scope="module")
def mesh(comm):
    """Meshes of all ranks, each made once."""
    meshes = {}

    def of(**sizes):
        key = tuple(sizes.items())
        if key not in meshes:
            meshes[key] = hpcpar.Mesh(comm, **sizes)
        return meshes[key]

    yield of
    for made in meshes.values():
        made.close()


@pytest.fixture(scope="module")
def alone(comm):
    part = comm.split(comm.rank)
    with part:
        yield part


@pytest.fixture(scope="module")
def one(alone):
    """A mesh of this rank alone."""
    return hpcpar.Mesh(alone, data=1, pipeline=1)


def table(rows, features, outputs, task, seed):
    """A table of random numbers; a column is constant."""
    random = np.random.default_rng(seed)
    x = random.normal(2, 3, (rows, features))
    x[:, features // 2] = 4
    if task == "classification":
        y = random.integers(0, outputs, rows)
        y[:outputs] = range(outputs)
    else:
        y = random.standard_normal((rows, outputs)).astype(np.float32)
    every = np.arange(rows)
    return Rows(x, y, every, Scaling(x, every))


@dataclass
class Float64:
    """Steps of training in float64: a leaf is a sample, or some.

    Training itself has float32 arrays only. Layers, their sums over ranks, `TreeSum` and optimizers
    compute in the type of what they are given, and here that is float64.
    """

    model: Model
    part: Rows
    data: Communicator
    optim: OptimConfig

    def __post_init__(self):
        flat = Flat(self.model.parameters, np, np.float64)
        self.weights, self.gradient = flat.empty(), flat.empty_gradients()
        flat.initialize(self.weights, seed=1)
        self.p, self.g = flat.params_views(self.weights), flat.gradient_views(self.gradient)
        self.optimizer = make_optimizer(self.optim, flat.parameters, np, np.float64)
        self.total, self.arena = hpcpar.TreeSum(self.data, 8, like=self.gradient), Arena()

    def step(self, indices):
        """The loss of these samples; the weights follow."""
        leaves, losses = np.array_split(indices, 8), np.zeros(8)
        for leaf in self.total.mine:
            x, y = self.part.batch(leaves[leaf])
            targets = y if y.ndim == 1 else y.astype(np.float64)
            losses[leaf] = self.model.loss_and_gradients(
                self.p, self.g, x.astype(np.float64), targets, 1 / len(indices), self.arena
            )
            self.total.add(leaf, self.gradient)
        self.total.reduce(out=self.gradient)
        self.optimizer.update(self.p, self.g, 0.01)
        return float(self.data.allreduce(losses).sum()) / len(indices)


def near(found, expected):
    """To 1e-10 of the largest."""
    return np.abs(found - expected).max() <= 1e-10 * np.abs(expected).max()


@pytest.mark.parametrize("number", range(CONFIGURATIONS))
def test_by_feature_by_sample_and_alone_in_float64(comm, mesh, alone, number):
    only_on(comm.size, (2, 3, 4, 8)[number % 4])
    random = np.random.default_rng(number)
    tensor = int(random.choice([n for n in (1, 2, 3, 4, 8) if comm.size % n == 0]))
    tensor = comm.size if number % 3 else tensor
    task = ["classification", "regression"][number // 4 % 2]
    features, width = (int(n) for n in tensor + random.integers(1, 20, 2))
    outputs, layers = int(random.integers(2, 6)), int(random.integers(1, 5))
    plain = linear(features, outputs, task)
    if number % 5:
        plain = mlp(features, outputs, width, layers, task)
    part = table(40, features, outputs, task, number)
    optim = OptimConfig(name=["sgd", "momentum", "adamw"][number // 4 % 3])
    axes = mesh(data=comm.size // tensor, tensor=tensor)
    ranks = axes["tensor"] if tensor > 1 else None
    shared = tensor_parallel(plain, ranks, None if number // 8 % 2 else 8, features=True)
    cut = shared.parameters[0].cut
    own = part if cut is None else part.of_columns(range(cut.runs[0].start, cut.runs[-1].stop))
    by_feature = Float64(shared, own, axes["data"] if tensor < comm.size else alone, optim)
    by_sample = Float64(plain, part, comm, optim)
    one = Float64(plain, part, alone, optim)
    held = {p.name: p.cut for p in shared.parameters}
    for step in range(STEPS):
        indices = random.permutation(40)[: 8 * random.integers(1, 5)]
        losses = [run.step(indices) for run in (one, by_sample, by_feature)]
        assert losses == pytest.approx(losses[:1] * 3, rel=1e-10), step
        for name, whole in one.p.items():
            assert near(by_sample.p[name], whole), (step, name)
            mine = whole if held[name] is None else held[name].take(whole)
            assert near(by_feature.p[name], mine), (step, name)


MODELS = {
    "linear": lambda: linear(13, 4, "classification"),
    "mlp of 1": lambda: mlp(13, 4, 9, 1, "classification"),
    "mlp of 2": lambda: mlp(13, 4, 9, 2, "classification"),
    "mlp of 3": lambda: mlp(13, 4, 9, 3, "classification"),
}
BATCH = BatchConfig(size=12, micro=2, leaves=3)


def trained(model, part, steps=2):
    """Losses, norms, the validation loss, and on rank 0 the hash of the weights."""
    if model.columns is not None:
        part = part.of_columns(model.columns)
    model.initialize(3)
    told = []
    for step in range(steps):
        indices = (np.arange(model.dealt.samples) * 7 + step) % len(part)
        loss, norm = model.loss_and_gradients(part, indices), model.update.norm()
        model.update.step(1e-2, clip_scale(norm, 0.5))
        told += [loss, norm]
    told.append(model.evaluate(part, np.arange(17)))
    weights = collect(model)
    return told, weights and weights_sha256(weights)


@pytest.mark.parametrize("name", MODELS)
def test_by_feature_under_layout_the_bits_of_one_rank(comm, mesh, one, name):
    """Also with data and pipeline ranks; where layers are cut alike, by sample as well."""
    if name != "mlp of 3":
        only_on(comm.size, 2)
    part = table(64, 13, 4, "classification", 5)
    tiles = ParallelConfig(tiles=8)

    def lone(partition):
        return trained(
            parallelize(MODELS[name](), one, tiles, BATCH, None, "layout", partition), part
        )

    told, digest = lone("feature")
    if name in ("linear", "mlp of 2"):
        assert lone("sample") == (told, digest)
    twice = 2 - comm.size % 2
    layouts = [(1, 1), (twice, 1), (1, twice)]  # data, pipeline
    for zero, (data, pipeline) in enumerate(layouts[: 2 if name == "linear" else 3]):
        axes = mesh(data=data, pipeline=pipeline, tensor=comm.size // (data * pipeline))
        parallel = ParallelConfig(tiles=8, zero=zero, recompute=zero == 1)
        model = parallelize(MODELS[name](), axes, parallel, BATCH, None, "layout", "feature")
        found, own = trained(model, part)
        assert found == told, axes
        assert own in (None, digest), axes


def test_by_feature_without_tiles_the_same_numbers(comm, mesh, one):
    only_on(comm.size, 2)
    part = table(64, 13, 4, "classification", 5)
    told, _ = trained(parallelize(MODELS["mlp of 3"](), one, None, BATCH), part)
    axes = mesh(data=1, pipeline=1, tensor=comm.size)
    model = parallelize(MODELS["mlp of 3"](), axes, None, BATCH, None, "ranks", "feature")
    assert trained(model, part)[0] == pytest.approx(told, rel=1e-5)


@pytest.mark.parametrize("zero", range(4))
def test_by_batch_the_bits_of_one_rank_with_so_many_batches(comm, mesh, one, zero):
    """The mean over all batches of a step, whoever shares gradients or layers."""
    only_on(comm.size, 2, 3 if zero == 1 else 2)
    part, name = table(64, 13, 4, "classification", 5), "mlp of 3"
    pipeline = 2 if comm.size % 2 == 0 else 1
    workers = comm.size // pipeline
    large = BatchConfig(workers * BATCH.size, BATCH.micro, workers * BATCH.leaves)
    expected, digest = trained(parallelize(MODELS[name](), one, None, large), part)
    for order in ("ranks", "off"):
        speeds = tuple(float(rank + 1) for rank in range(comm.size)) if order == "ranks" else ()
        parallel = ParallelConfig(pipeline=pipeline, zero=zero, speeds=speeds)
        axes = mesh(data=workers, pipeline=pipeline)
        model = parallelize(MODELS[name](), axes, parallel, BATCH, None, order, "batch")
        assert (model.dealt.batches, model.dealt.samples) == (workers, large.size)
        found, own = trained(model, part)
        if order == "ranks":
            assert found == expected and own in (None, digest)
        else:
            assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("partition", ["sample", "batch"])
def test_exactly_once_through_a_stop_and_a_resume_on_other_ranks(
    comm, shared_path, monkeypatch, partition
):
    """`hpcpar.train`, and what every rank really reads of its text."""
    only_on(comm.size, 2)
    if comm.rank == 0:
        (shared_path / "text").write_bytes(np.random.default_rng(2).bytes(8 * 72 + 1))
    comm.barrier()
    read = []
    real = Windows.batch

    def noted(self, indices):
        if len(self) > 30:  # not the validation samples
            read.extend(indices.tolist())
        return real(self, indices)

    monkeypatch.setattr(Windows, "batch", noted)
    monkeypatch.setattr("hpcpar.run.report.bigram_loss", lambda *_: 0.0)  # counts all samples
    arguments = [
        "--data.paths", str(shared_path / "text"), "--model.context", "8", "--model.width", "8",
        "--model.layers", "1", "--model.heads", "1", "--batch.size", "4", "--batch.leaves", "2",
        "--data.partition", partition, "--data.cache", str(shared_path / "cache"),
        "--run.dir", str(shared_path / "run"),
    ]  # fmt: skip

    def train(ranks, *more):
        part = comm.split(0 if comm.rank < ranks else None)
        if part is None:
            return
        with part, contextlib.redirect_stdout(io.StringIO()):
            monkeypatch.setattr(
                hpcpar.train, "Communicator", lambda **how: Communicator(part.mpi, **how)
            )
            hpcpar.train.main([*arguments, *more], part)

    # 17 batches of 4 samples make an epoch: 7 + 10 of them, or 5 x 2 + 7.
    stop, end = (7, 17) if partition == "sample" else (5, 12)
    train(1 if partition == "sample" else 2, "--steps", str(stop))
    train(2 if partition == "sample" else 1, "--steps", str(end), "--run.resume", "true")
    used = comm.allgather(np.array(read, np.int64)).tolist()
    assert sorted(used) == list(range(68))
