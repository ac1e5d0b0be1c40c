"""From a configuration to a dataset: prepared once, opened by all ranks, compared."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from hpcpar.data.cache import Cache, Entry, Recipe
from hpcpar.data.config import DataConfig
from hpcpar.data.dataset import Dataset
from hpcpar.data.files import find_files, title
from hpcpar.data.split import split
from hpcpar.data.table import open_table
from hpcpar.data.table_sources import plan_table
from hpcpar.data.text import VOCABULARY, open_text, plan_text, text_documents
from hpcpar.data.tokens import (
    TokenFile,
    ended_documents,
    open_tokens,
    plan_tokens,
    token_documents,
)
from hpcpar.data.windows import Stream, Windows, count_windows
from hpcpar.errors import UserError

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["consecutive_windows", "open_data"]

SLICE = 1.0  # seconds of building between two signs of life


def open_data(config: DataConfig, context: int, comm: "Communicator | None" = None) -> Dataset:
    """The data that `config` names; text in windows of `context` tokens.

    Collective over `comm`; None is a process that works alone. The first rank prepares what the
    cache lacks, then the first rank of each node that does not see it. Raises `UserError` on every
    rank when a source is missing, empty, too short or damaged, or when nodes read different data.
    """
    if context < 1:
        raise ValueError(f"context is {context}; it must be at least 1")
    if comm is not None:
        return _open_together(config, context, comm)
    recipe, cache = _plan(config), Cache(config.cache_folder)
    _advance(cache.build(recipe), float("inf"))
    return _open(cache.open(recipe.name), config, context)


def consecutive_windows(
    path: str, kind: str, context: int, vocabulary: int, separator: int | None = None
) -> Windows:
    """All windows of one file, in order, read where it lies; `kind` is "bytes" or "tokens".

    With a separator attention stays within the documents that it ends. Raises `UserError` when the
    file cannot be read, is shorter than one window, or has a token that is not below `vocabulary`.
    """
    file = find_files([path], (".bin",) if kind == "tokens" else ("",))
    if len(file) != 1:
        raise UserError(f"{path} holds {len(file)} files; name one")
    if kind == "tokens":
        tokens = TokenFile.at(file[0])
    else:
        tokens = TokenFile(str(file[0].path), "u1", 0, file[0].size)
    windows = count_windows(tokens.count, context)
    if not windows:
        raise UserError(
            f"{path} is too short: it has {tokens.count} {kind}, a window takes {context + 1}"
        )
    content = tokens.map()
    if int(content.max()) >= vocabulary:
        raise UserError(f"{path} has token {content.max()}, the model's are below {vocabulary}")
    cuts = None
    if separator is not None:
        cuts = ended_documents(np.flatnonzero(content == separator), len(content))
    return Windows(Stream([content]), context, np.arange(windows), cuts)


def _plan(config: DataConfig) -> Recipe:
    config.check()
    if config.kind == "tokens":
        return plan_tokens(config.paths, config.separator if config.documents else None)
    return (plan_text if config.kind == "bytes" else plan_table)(config.paths)


def _open(entry: Entry, config: DataConfig, context: int) -> Dataset:
    name = title(config.paths)
    if config.kind == "table":
        whole = config.partition != "feature"
        table = open_table(entry, name, config.validation, config.task, whole)
        if config.stratify and table.train.classes is None:
            raise UserError(
                f"--data.stratify is for classes, and the targets of {name} are numbers: leave it "
                "out, or take --data.task classification"
            )
        return table
    if config.kind == "tokens":
        stream, vocabulary = open_tokens(entry)
    else:
        stream, vocabulary = open_text(entry), VOCABULARY
    windows = count_windows(len(stream), context)
    if windows < 2:
        raise UserError(
            f"{name} is too short: it has {len(stream)} {config.kind}; one sample to train on "
            f"and one to validate take {2 * context + 1}: name more with --data.paths, "
            f"or lower --model.context {context}"
        )
    train, held = split(windows, config.validation)
    cuts = None
    if config.documents and config.kind == "tokens":
        cuts = token_documents(entry, config.separator, name)
    elif config.documents:
        cuts = text_documents(entry)
    return Dataset(
        kind=config.kind,
        title=name,
        train=Windows(stream, context, train, cuts),
        validation=Windows(stream, context, held, cuts),
        digest=entry.meta["digest"],
        length=len(stream),
        vocabulary=vocabulary,
        documents=cuts,
    )


def _open_together(config: DataConfig, context: int, comm: "Communicator") -> Dataset:
    from hpcpar.comm import agree, compare_ranks, together  # loads MPI; a process alone needs none

    name = None
    # Two rounds: on a shared file system the nodes must not all write the same large file.
    for builds in (comm.rank == 0, comm.local_rank == 0):
        work: Iterator[None] = iter(())
        with together(comm):
            if builds:
                recipe = _plan(config)
                name, work = recipe.name, Cache(config.cache_folder).build(recipe)
        busy = True
        while busy:  # a large corpus takes longer than a wait may
            with together(comm):
                busy = _advance(work, SLICE)
            busy = bool(comm.allreduce(np.array([float(busy)]), op="max")[0])

    # Only the node's first rank has looked at the sources; the others learn from it what they are.
    names, nodes = agree(comm, name), comm.allgather(np.array([comm.node]))
    known = next(n for n, node in zip(names, nodes, strict=True) if n and node == comm.node)
    with together(comm):
        dataset = _open(Cache(config.cache_folder).open(known), config, context)
    for difference in compare_ranks(comm, {"sha256 of the data": dataset.digest}):
        raise UserError(f"{difference}; {dataset.title} must be the same on all nodes")
    return dataset


def _advance(work: Iterator[None], seconds: float) -> bool:
    """Work for about this long; whether anything is left to do."""
    end = time.monotonic() + seconds
    return any(time.monotonic() > end for _ in work)
