"""python -m hpcpar plan [run.toml] [--ranks 64] [--memory 80GB] [--section.key value ...]"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from hpcpar.comm import Communicator, together
from hpcpar.comm.flight.words import size_text
from hpcpar.config import Config, given_keys, share_config
from hpcpar.data import open_data
from hpcpar.errors import UserError
from hpcpar.linalg.arguments import read_bytes
from hpcpar.nn import Model, build_model, fit_data
from hpcpar.parallel.choose import fastest
from hpcpar.parallel.config import PLANNED
from hpcpar.parallel.figures import Figures, measure_figures
from hpcpar.parallel.layout import Sharing
from hpcpar.parallel.plan import Plan, describe, plan_layouts
from hpcpar.parallel.shares import lone_model

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["plan"]

KINDS = ("params", "grads", "optim", "activ", "buffers", "copies")  # as in `Bytes`
WIDTH = 190  # characters, where the output is no terminal
FACTORS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}


def plan(
    ranks: int = 0,
    memory: str = "",
    speeds: str = "",
    top: int = 10,
    flops: str = "",
    bandwidth: str = "",
    latency: float = -1.0,
    *,
    settings: Sequence[str] = (),
    comm: Communicator,
) -> None:
    """Which layouts of ranks fit, and how long a step takes with each: the fastest first.

    A run.toml and keys of training (--model.layers 24, --batch.size 512) say what is trained; keys
    of --parallel are not chosen but taken as they are. Layers and messages are measured here, in a
    second or so, unless other figures are given.

    Args:
        ranks: How many; 0 takes those that run this.
        memory: Bytes that a rank has, as 80GB; all layouts fit where it is left out.
        speeds: How fast each rank is relative to the others, as 1,1,0.5.
        top: Rows of the table.
        flops: Operations a second of a rank in matrix products, as 150T; then nothing is computed.
        bandwidth: Bytes a second between two ranks, as 25GB.
        latency: Seconds of a small message.
    """
    config = share_config(comm, settings)
    with together(comm):
        limit, rates = _limit(memory), (_rate("flops", flops), _bytes("bandwidth", bandwidth))
        given = _given(config, settings)
        if speeds:
            config.parallel.speeds = _speeds(speeds)
        if config.data.partition != "sample":
            raise UserError(
                f"plans are made for --data.partition sample, not {config.data.partition}: leave "
                "the key out"
            )
        ranks = ranks or comm.size
        if ranks < 1 or top < 1:
            raise UserError(f"--ranks is {ranks} and --top {top}; each must be at least 1")
        alone = replace(config.parallel, data=ranks, pipeline=1, context=1, tensor=1)
        alone.sizes(ranks)  # are the speeds as many?
    with Communicator(device=config.device, timeout=config.timeout) as computing:
        model = _model(config, computing)
        tiles = config.parallel.tiles_under(config.reproducible)
        figures = measure_figures(
            lone_model(model, tiles), config.batch.micro, config.optim, computing, *rates,
            None if latency < 0 else latency,
        )  # fmt: skip
        host = computing.device.kind == "cpu" and not flops
    with together(comm):
        if comm.rank == 0:
            plans = plan_layouts(
                model, config.batch, config.optim, ranks, figures,
                given | {"speeds": config.parallel.speeds, "tiles": config.parallel.tiles},
                config.reproducible, host, limit, config.recovery,
            )  # fmt: skip
            _check(plans, ranks, len(model.layers), limit)
            _show(plans, config, figures, ranks, limit, top)


def _model(config: Config, comm: Communicator) -> Model:
    """The model, without its data where the vocabulary is known."""
    if config.model.kind == "gpt" and config.model.vocabulary:
        return build_model(config.model, None)
    dataset = open_data(config.data, config.model.context, comm)
    with together(comm):
        config.model = fit_data(config.model, dataset)
        return build_model(config.model, dataset)


def _given(config: Config, settings: Sequence[str]) -> dict[str, object]:
    """The axes that are not to be chosen."""
    parallel = config.parallel
    named = given_keys(settings)
    changed = {n for n in PLANNED if getattr(parallel, n) != getattr(type(parallel), n)}
    return {n: getattr(parallel, n) for n in PLANNED if n in changed or f"parallel.{n}" in named}


def _check(plans: Sequence[Plan], ranks: int, layers: int, limit: float) -> None:
    """Raises `UserError` where nothing is left to choose from."""
    if not plans:
        raise UserError(
            f"no layout of {ranks} ranks and {layers} layers, with the first and the last, has the "
            "--parallel keys that are given: leave some out"
        )
    fastest(plans, limit)


def _show(
    plans: Sequence[Plan], config: Config, figures: Figures, ranks: int, limit: float, top: int
) -> None:
    from rich.console import Console
    from rich.table import Table

    fitting = [one for one in plans if one.bytes.total <= limit]
    width = max(WIDTH, shutil.get_terminal_size((WIDTH, 0)).columns)
    console = Console(force_terminal=False, width=width, highlight=False, markup=False)
    model, batch = config.model, config.batch
    text = model.kind == "gpt"
    size = f", width {model.width}, context {model.context}" if text else ""
    console.print(
        f"{model.kind} of {model.layers} layers{size}; {batch.size} samples a step, {batch.micro} "
        f"in a micro-batch; {ranks} ranks"
    )
    for line in _figures(figures):
        console.print(line)
    table = Table(box=None, pad_edge=False)
    names = ("compute", "exposed", "bubble", "total s", "tokens/s" if text else "samples/s")
    table.add_column("layout", no_wrap=True)
    kinds = [*KINDS] if any(one.bytes.copies for one in fitting[:top]) else [*KINDS][:-1]
    for name in (*kinds, "total", *names):
        table.add_column(name, justify="right", no_wrap=True)
    for one in fitting[:top]:
        _row(table, one, model.context if text else 1, len(kinds))
    console.print(table)
    more = f"{len(fitting) - top} more fit" if len(fitting) > top else "all that fit are shown"
    least = len(plans) - len(fitting)
    console.print(f"{more}; {least} do not fit into {size_text(int(limit))}" if least else more)
    if config.reproducible == "ranks" and fitting[0].layout.sharing != Sharing():
        console.print(
            "with tensor or context ranks the bits are those of so many; --reproducible layout has "
            "the same ones on any number"
        )
    idle = fitting[0].layout.idle_ranks
    if idle:
        console.print(f"{idle} ranks of the first have no leaf of the batch: raise --batch.leaves")
    if config.parallel.speeds and any(one.layout.rounds for one in fitting[:top]):
        console.print("zero 2 and 3 deal leaves in rounds, one a rank, whatever the speeds")


def _row(table: "Table", one: Plan, tokens: int, kinds: int) -> None:
    seconds = one.seconds
    told = (seconds.compute, seconds.communication, seconds.bubble, seconds.total)
    table.add_row(
        describe(one.layout.parallel),
        *[size_text(size) for size in asdict(one.bytes).values()][:kinds],
        size_text(one.bytes.total),
        *(f"{value:.3g}" for value in told),
        f"{one.samples_per_second * tokens:,.0f}",
    )


def _figures(figures: Figures) -> list[str]:
    """What the plan was made of, and where each figure comes from."""
    origin = figures.origin
    step = sum(one.total for one in figures.layers)
    return [
        f"layers: {step:.3g} s a micro-batch, forward and backward: {origin['layers']}",
        f"messages: latency {figures.latency * 1e6:.3g} us: {origin['latency']}; "
        f"bandwidth {size_text(int(figures.bandwidth))}/s: {origin['bandwidth']}; "
        + ("hidden behind computing where there is some" if figures.overlap else "never hidden"),
        f"memory: {figures.combine * 1e9:.3g} s to add a GB of gradients, "
        f"{figures.update * 1e9:.3g} s to update a billion weights: {origin['memory']}",
    ]


def _limit(memory: str) -> float:
    return _bytes("memory", memory) or float("inf")


def _bytes(name: str, text: str) -> float | None:
    if not text:
        return None
    try:
        return float(read_bytes(text))
    except ValueError:
        raise UserError(f"--{name} takes bytes, as 80GB, not {text!r}") from None


def _rate(name: str, text: str) -> float | None:
    if not text:
        return None
    found = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([kKMGTP]?)\s*", text)
    try:
        rate = float(found[1]) * FACTORS[found[2]] if found else 0.0
    except ValueError:
        rate = 0.0
    if rate <= 0:
        raise UserError(f"--{name} takes a number above 0, as 150T, not {text!r}")
    return rate


def _speeds(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"--speeds takes numbers, as 1,1,0.5, not {text!r}") from None
