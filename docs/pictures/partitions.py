"""Who has what of the data, by each partition, from layouts and layers that are really shared."""

from pathlib import Path

from held import Part, draw_arrays

from hpcpar.nn import mlp
from hpcpar.parallel import BatchConfig, ParallelConfig, tensor_parallel
from hpcpar.parallel.layout import Layout
from hpcpar.parallel.place import Place

__all__ = ["draw_partitions"]

RANKS, FEATURES, WIDTH, OUTPUTS = 4, 16, 24, 6
BATCH = BatchConfig(size=12, micro=1, leaves=12)


def draw_partitions(folder: Path) -> None:
    """partition_sample.svg, partition_batch.svg and partition_feature.svg."""
    for partition in ("sample", "batch"):
        draw_arrays(
            {f"by {partition}": [*_steps(partition), *_copies()]},
            folder / f"partition_{partition}.svg",
        )
    draw_arrays({"by feature": _columns()}, folder / "partition_feature.svg")


def _steps(partition: str) -> list[Part]:
    """The samples of three steps, as rows, of the data-parallel ranks that compute them."""
    layout = Layout(ParallelConfig(), BATCH, RANKS, partition=partition)
    runs = [
        [range(slot.micro, slot.micro + 1) for slot in own if slot.micro >= 0]
        for own in layout.slots
    ]
    shape = layout.samples, FEATURES
    return [(f"samples of step {step}", shape, 0, runs) for step in range(1, 4)]


def _copies() -> list[Part]:
    """The weights of an MLP of one hidden layer, which every rank has."""
    model = mlp(FEATURES, OUTPUTS, WIDTH, 1, "classification")
    weights = [p for p in model.parameters if len(p.shape) == 2]
    return [(p.name, (p.shape[0], p.shape[1]), None, []) for p in weights]


def _columns() -> list[Part]:
    """The samples of a step and what becomes of them in an MLP of two hidden layers."""
    model = mlp(FEATURES, OUTPUTS, WIDTH, 2, "classification")
    ranks = [
        tensor_parallel(model, Place(rank, RANKS), None, features=True) for rank in range(RANKS)
    ]
    held = [{p.name: p for p in rank.parameters} for rank in ranks]
    rows = BATCH.size
    parts: list[Part] = []
    for number, layer in enumerate(ranks[0].layers):
        weight = layer.parameters[0]
        cuts = [of[weight.name].cut for of in held]
        assert weight.cut is not None and None not in cuts
        shape, axis, runs = weight.cut.shape, weight.cut.axis, [cut.runs for cut in cuts if cut]
        if number == 0:
            parts.append(("samples", (rows, shape[0]), 1, runs))
        parts.append((weight.name, (shape[0], shape[1]), axis, runs))
        name = "outputs" if number == 2 else "hidden units"
        parts.append((name, (rows, shape[1]), 1 if axis else None, runs if axis else []))
    return parts
