"""What layers say they take from an arena is what they take."""

from collections import Counter

import numpy as np
import pytest

from hpcpar.nn import Arena, Flat, gpt, linear, mlp
from hpcpar.nn.losses import SquaredError
from hpcpar.parallel.recompute import recomputed
from hpcpar.parallel.tensor import tensor_parallel


class Watched(Arena):
    """Knows how many arrays of each size are lent, and the most that were since `start`."""

    def __init__(self):
        super().__init__()
        self.now, self.most, self.before = Counter(), Counter(), Counter()

    def start(self):
        self.before, self.most = self.now.copy(), self.now.copy()

    @property
    def peak(self):
        return self.most - self.before

    def take(self, shape, dtype):
        array = super().take(shape, dtype)
        self.now[array.nbytes] += 1
        self.most |= self.now
        return array

    def give(self, *saved):
        for item in saved:
            if not isinstance(item, (tuple, list)):
                self.now[item.nbytes] -= 1
        super().give(*saved)

    def inside(self, saved):
        """The lent arrays among what a layer has saved, by size."""
        found = Counter()
        for item in saved if isinstance(saved, (tuple, list)) else [saved]:
            if isinstance(item, (tuple, list)):
                found += self.inside(item)
            elif isinstance(item, dict):
                found += self.inside(list(item.values()))
            else:
                assert self.has_lent(item)
                found[item.nbytes] += 1
        return found


MODELS = {
    "gpt": (gpt(layers=2, heads=2, width=24, context=17, vocabulary=31), (3, 17)),
    "gpt of one head": (gpt(layers=1, heads=1, width=8, context=70, vocabulary=9), (1, 70)),
    "gpt in blocks": (gpt(layers=1, heads=2, width=64, context=128, vocabulary=300), (10, 128)),
    "mlp": (mlp(10, 3, 12, 3, "classification"), (7, 10)),
    "mlp in blocks": (mlp(4, 2, 64, 2, "regression"), (1500, 4)),
    "linear": (linear(10, 3, "regression"), (5, 10)),
}
TILED = {  # on one rank, as under --reproducible layout
    "gpt in 4 tiles": (gpt(layers=1, heads=4, width=24, context=16, vocabulary=31), (3, 16), 4),
    "gpt in 3 tiles": (gpt(layers=1, heads=3, width=48, context=15, vocabulary=300), (2, 15), 3),
    "gpt in 5 tiles": (gpt(layers=1, heads=2, width=64, context=640, vocabulary=90), (2, 640), 5),
    "gpt of one span": (gpt(layers=1, heads=2, width=24, context=17, vocabulary=31), (3, 17), 4),
    "mlp in 4 tiles": (mlp(10, 3, 12, 3, "classification"), (7, 10), 4),
    "mlp in 2 tiles": (mlp(4, 2, 64, 3, "regression"), (1500, 4), 2),
    "linear in 4 tiles": (linear(10, 3, "regression"), (5, 10), 4),
}
MODELS["mlp by feature"] = (
    tensor_parallel(mlp(10, 3, 12, 3, "classification"), None, 4, features=True), (7, 10),
)  # fmt: skip
MODELS |= {
    name: (tensor_parallel(model, None, tiles), shape)
    for name, (model, shape, tiles) in TILED.items()
}


def watched_layers(name, again):
    """Every layer with its weights, gradients and a watched arena; and its input's shape."""
    model, shape = MODELS[name]
    for layer in (recomputed(model) if again else model).layers:
        own = [p.apart(p) if p.tied_to is not None else p for p in layer.parameters]
        flat = Flat(own, np)
        weights, gradients = flat.empty(), flat.empty_gradients()
        weights.fill(0.01)
        yield layer, flat.params_views(weights), flat.gradient_views(gradients), Watched(), shape
        shape = layer.output_shape(shape)


@pytest.mark.parametrize("again", [False, True], ids=["", "recompute"])
@pytest.mark.parametrize("name", MODELS)
def test_a_layer_takes_what_it_says(name, again):
    for layer, p, g, arena, shape in watched_layers(name, again):
        said, first = layer.footprint(shape), layer.footprint(shape).saved
        dtype = np.int32 if len(shape) == 2 and "gpt" in name else np.float32
        for halves in (False, True):
            x = arena.take(shape, dtype)
            x.fill(0)
            arena.start()
            y, saved = layer.forward(p, x, arena)
            assert_same(arena.peak, said.forward, "forward")
            assert arena.inside(saved) == first
            assert arena.now == first + Counter({y.nbytes: 1})
            arena.start()
            if not halves:
                dx = layer.backward(p, g, y, saved, arena)
                assert_same(arena.peak, said.backward, "backward")
            else:
                dx, kept = layer.backward_input(p, y, saved, arena)
                assert_same(arena.peak, said.input, "input")
                out = Counter() if dx is None else Counter({dx.nbytes: 1})
                assert +(arena.now - out) == said.kept
                arena.start()
                layer.backward_weight(g, kept, arena)
                assert_same(arena.peak, said.weight, "weight")
            if dx is not None:
                assert dx.nbytes == x.nbytes
                arena.give(dx)
            assert not +arena.now, "nothing is left"


def assert_same(found, said, what):
    """Exactly; one array more where two uses have one size."""
    assert not found - said, f"{what} takes more"
    more = {size: count for size, count in (said - found).items() if count > 0}
    assert sum(more.values()) <= 1 and sum(more) <= 2000, (what, more)


@pytest.mark.parametrize("name", MODELS)
def test_a_loss_takes_what_it_says(name):
    model, shape = MODELS[name]
    for layer in model.layers:
        shape = layer.output_shape(shape)
    arena, outputs = Watched(), np.zeros(shape, np.float32)
    tables = np.zeros(shape[:-1], np.int64)
    targets = np.zeros(MODELS[name][1], np.int64) if "gpt" in name else tables
    if isinstance(model.loss_function, SquaredError):
        targets = outputs.copy()
    arena.start()
    model.loss_function.value_and_gradient(outputs, targets, 1.0, arena)
    assert arena.peak == model.loss_function.scratch(shape)


@pytest.mark.parametrize("name", MODELS)
def test_flops_are_those_of_the_model(name):
    model, shape = MODELS[name]
    samples, inputs = shape[0], shape
    total, given_back = 0.0, 0.0
    for layer in model.layers:
        total += layer.flops(inputs)
        given_back += layer.flops(inputs) * getattr(layer, "first", False)
        inputs = layer.output_shape(inputs)
    assert 3 * total - given_back == pytest.approx(samples * model.flops_per_sample)
