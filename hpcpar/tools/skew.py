"""python -m hpcpar skew PATHS"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from hpcpar.comm import together
from hpcpar.data import DataConfig, Dataset, Sampler, make_sampler, open_data
from hpcpar.data.balance import imbalance
from hpcpar.data.documents import squared_lengths
from hpcpar.data.skew import DocumentSkew, class_counts, document_skew, farthest_share
from hpcpar.errors import UserError
from hpcpar.parallel import BatchConfig
from hpcpar.parallel.sequence_cost import HEADS, SequenceCost, measure_sequences

if TYPE_CHECKING:
    from rich.table import Table

    from hpcpar.comm import Communicator

__all__ = ["skew"]

STEPS = 20  # of training that are looked at
CLASSES = 10  # that a table has columns for


def skew(
    paths: list[str] = [],  # noqa: B006  (it is only read)
    kind: Literal["bytes", "tokens", "table"] = "bytes",
    ranks: int = 8,
    context: int = 128,
    width: int = 128,
    separator: int = 50256,
    out: str = "skew.svg",
    *,
    comm: "Communicator",
) -> None:
    """How uneven documents or classes are, and what dealing, packing and stratifying make of it.

    What a document costs, a s + b s^2 for s tokens, is measured here, in a second or so.

    Args:
        paths: Files and folders, as --data.paths takes them; none takes Python's standard library.
        kind: As --data.kind; for bytes each file is a document.
        ranks: How many share the data.
        context: Tokens of a sample.
        width: Channels of the GPT whose block is measured, a multiple of 4.
        separator: The token that ends a document.
        out: The picture, .svg or .png; "" for none.
    """
    text = kind != "table"
    with together(comm):
        _check(ranks, context, width, out)
    config = DataConfig(paths, kind, documents=text, separator=separator)
    dataset = open_data(config, context, comm)
    cost = measure_sequences(width, comm) if text else SequenceCost(0, 0)
    with together(comm):
        if comm.rank == 0:
            print(dataset.describe())
            if text:
                _show_documents(dataset, config, ranks, context, cost, out)
            else:
                _show_classes(dataset, config, ranks, out)
            if out:
                print(f"the picture is {out}")


def _check(ranks: int, context: int, width: int, out: str) -> None:
    for name, value in (("ranks", ranks), ("context", context), ("width", width)):
        if value < 1:
            raise UserError(f"--{name} is {value}; it must be at least 1")
    if width % HEADS:
        raise UserError(f"--width is {width}; it must be a multiple of {HEADS}")
    if out and Path(out).suffix not in (".svg", ".png"):
        raise UserError(f"--out is {out}; its name must end in .svg or .png")
    if out and not Path(out).absolute().parent.is_dir():
        raise UserError(f"--out {out} cannot be written: there is no such folder")


def _show_documents(
    dataset: Dataset, config: DataConfig, ranks: int, context: int, cost: SequenceCost, out: str
) -> None:
    assert dataset.documents is not None
    found = document_skew(dataset.documents.lengths, ranks, context, cost.of)
    before, after = _micro_batches(dataset, config, context, cost)
    lengths = found.lengths
    told = int(lengths.min()), f"{np.median(lengths):,.0f}", int(lengths.max())
    table = _table("", "before", "after")
    table.add_row("documents", f"{len(lengths):,}", "")
    table.add_row("tokens: least, median, most", "{:,}, {}, {:,}".format(*told), "")
    table.add_row("positions that are padding", f"{found.wasted:.1%}", "0")
    table.add_row(f"cost of {ranks} ranks, max/mean", f"{found.before:.3f}", f"{found.after:.3f}")
    table.add_row("cost of micro-batches, max/mean", f"{before:.3f}", f"{after:.3f}")
    _print(table)
    print(
        f"a document of s tokens costs {cost.a * 1e6:.3g} us s + {cost.b * 1e9:.3g} ns s^2 in a "
        "block (measured here)"
    )
    _tell_limits(found, ranks)
    if out:
        from hpcpar.tools.skew_picture import draw_documents

        draw_documents(Path(out), found)


def _micro_batches(
    dataset: Dataset, config: DataConfig, context: int, cost: SequenceCost
) -> tuple[float, float]:
    """Costs of a step's micro-batches, max/mean: on average, as drawn and with --data.balance."""
    batch, part = BatchConfig(), dataset.train
    found = []
    for balance in (False, True):
        own = DataConfig(documents=True, balance=balance)
        sampler = make_sampler(part, own, batch.size, batch.micro, batch.leaves, 0)
        runs = np.arange(batch.size).reshape(-1, batch.micro).tolist()
        steps = []
        for step in range(STEPS):
            documents = part.documents(sampler.indices(step))
            assert documents is not None
            costs = cost.a * context + cost.b * squared_lengths(documents)
            steps.append(imbalance(costs, runs))
        found.append(float(np.mean(steps)))
    return found[0], found[1]


def _tell_limits(found: DocumentSkew, ranks: int) -> None:
    """Why the ranks are not even, where they cannot be."""
    if found.after > 1.02:
        print(
            f"{len(found.lengths)} documents cannot be dealt evenly to {ranks} ranks: one costs "
            "more than a rank's share, or there are too few small ones"
        )


def _show_classes(dataset: Dataset, config: DataConfig, ranks: int, out: str) -> None:
    classes = dataset.train.classes
    if classes is None:
        raise UserError(f"the targets of {dataset.title} are numbers: skew is shown of classes")
    in_order = class_counts(classes, np.array_split(np.arange(len(classes)), ranks))
    drawn = Sampler(len(classes), BatchConfig().size, 0)
    even = make_sampler(
        dataset.train, DataConfig(kind="table", stratify=True), BatchConfig().size, 1, 1, 0
    )
    steps = range(max(len(classes) // BatchConfig().size, 1))
    batches = [class_counts(classes, [s.indices(i) for i in steps]) for s in (drawn, even)]
    shared = [np.array_split(even.indices(step), ranks) for step in steps]
    stratified = class_counts(classes, [np.concatenate(p) for p in zip(*shared, strict=True)])
    shown = min(in_order.shape[1], CLASSES)
    table = _table("rank", *(f"class {n}" for n in range(shown)))
    for rank, (old, new) in enumerate(zip(in_order, stratified, strict=True)):
        cells = zip(old[:shown].tolist(), new[:shown].tolist(), strict=True)
        table.add_row(str(rank), *(f"{one} > {other}" for one, other in cells))
    _print(table)
    print("rows of each class: in the table's order > dealt with --data.stratify true")
    far = [farthest_share(counts, classes) for counts in (in_order, stratified, *batches)]
    print(
        f"farthest from its share of all: on a rank {far[0]:.1%} in order, {far[1]:.1%} "
        f"stratified; in a batch of {BatchConfig().size} {far[2]:.1%} as drawn, {far[3]:.1%} "
        "stratified"
    )
    if out:
        from hpcpar.tools.skew_picture import draw_classes

        draw_classes(Path(out), in_order, stratified)


def _table(first: str, *names: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _print(table: "Table") -> None:
    from rich.console import Console

    Console(force_terminal=False, width=160, highlight=False, markup=False).print(table)
