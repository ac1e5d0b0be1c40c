"""The figures that a plan is made of: measured on this machine, or given for another one."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from hpcpar.comm.measure import Link, Links, measure_links
from hpcpar.nn import Model, Parameter
from hpcpar.nn.model import planned
from hpcpar.optim import OptimConfig, make_optimizer, square_sums
from hpcpar.parallel.costs import LayerSeconds, measure_layers

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["Figures", "assumed_figures", "measure_figures"]

ELEMENTS = 1 << 20  # of the parameter whose update is timed
EXTENT = 512  # of the products that are timed
ROUNDS = 5
LATENCY = 2e-6  # seconds; where there is no second rank to measure it with


@dataclass(frozen=True)
class Figures:
    """Of one rank, while all are at work.

    Attributes: layers, seconds of a micro-batch in each; latency, seconds of a message; bandwidth,
    bytes a second of a large one; combine, seconds to add a byte of float32; update, seconds to
    bring an element up to date, with its part of the norm; overlap, whether messages travel while
    ranks compute (inside a node processors copy them); origin, in words, where each comes from.
    """

    layers: tuple[LayerSeconds, ...]
    latency: float
    bandwidth: float
    combine: float
    update: float
    overlap: bool
    origin: dict[str, str]


def measure_figures(
    model: Model,
    micro: int,
    optim: OptimConfig,
    comm: "Communicator",
    flops: float | None = None,
    bandwidth: float | None = None,
    latency: float | None = None,
) -> Figures:
    """Figures of this machine, for micro-batches of so many samples. Collective.

    What is given is of another machine, in operations, bytes and seconds. Where `flops` is given no
    layer is computed: their seconds follow from their products, and those of additions and updates
    from what they take here beside a product. Every rank gets the same.
    """
    links = measure_links(comm)
    memory = comm.bcast(np.array([_update_seconds(optim, comm), links.combine]))
    update, combine = map(float, memory)
    origin = {"memory": f"measured ({_ranks(comm)})"}
    if flops is None:
        layers = tuple(measure_layers(model, micro, comm))
        origin["layers"] = f"measured ({_ranks(comm)})"
    else:
        here = comm.bcast(np.array([_product_rate(comm)]))
        update, combine = (seconds * float(here[0]) / flops for seconds in (update, combine))
        layers = tuple(_from_flops(model, micro, flops))
        origin["layers"] = f"of {flops:.3g} flop/s (given)"
        origin["memory"] = "measured here beside a product, and scaled to the given flop/s"
    link, where, measured = _link(links, comm)
    origin["bandwidth"] = origin["latency"] = where
    if bandwidth is not None:
        origin["bandwidth"] = "given"
    if latency is not None:
        origin["latency"] = "given"
    return Figures(
        layers, link.latency if latency is None else latency,
        link.bandwidth if bandwidth is None else bandwidth, combine, update,
        overlap=bandwidth is not None or measured == "between" or comm.device.kind != "cpu",
        origin=origin,
    )  # fmt: skip


def assumed_figures(model: Model, micro: int) -> Figures:
    """Of some machine, to compare layouts by where none was measured."""
    layers = tuple(_from_flops(model, micro, 1e11))
    return Figures(layers, LATENCY, 1e10, 1e-10, 1e-9, overlap=False, origin={})


def _ranks(comm: "Communicator") -> str:
    return f"{comm.size} rank{'s' * (comm.size > 1)} here"


def _link(links: Links, comm: "Communicator") -> tuple[Link, str, str]:
    """The slowest kind of link that there is, in what words, and its kind."""
    if links.between is not None:
        return links.between, "measured (between nodes)", "between"
    if links.inside is not None:
        return links.inside, "measured (inside a node)", "inside"
    return Link(LATENCY, 1 / (2 * links.copy)), "assumed (one rank: two copies in memory)", "none"


def _from_flops(model: Model, micro: int, flops: float) -> list[LayerSeconds]:
    found, shape = [], (micro, *model.input_shape)
    for layer in model.layers:
        seconds = planned(layer).flops(shape) / flops
        found.append(LayerSeconds(seconds, 2 * seconds, seconds))
        shape = layer.output_shape(shape)
    return found


def _update_seconds(optim: OptimConfig, comm: "Communicator") -> float:
    """Seconds an element: the optimizer, and the squares of the norm."""
    xp = comm.device.xp
    parameter = Parameter("p", (ELEMENTS // 1024, 1024))
    optimizer = make_optimizer(optim, [parameter], xp)
    weights, gradient = ({"p": xp.zeros(parameter.shape, np.float32)} for _ in range(2))

    def work() -> None:
        square_sums(gradient["p"])
        optimizer.update(weights, gradient, 1e-3)

    return _median(work, comm) / ELEMENTS


def _product_rate(comm: "Communicator") -> float:
    """Operations a second of a product."""
    a = comm.device.xp.ones((EXTENT, EXTENT), np.float32)
    out = a.copy()
    return 2 * EXTENT**3 / _median(lambda: np.matmul(a, a, out=out), comm)


def _median(work: Callable[[], object], comm: "Communicator") -> float:
    times = []
    comm.barrier()  # all at the same time, as in a step
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        work()
        comm.device.synchronize()
        times.append(time.perf_counter() - start)
    return median(times[1:])
