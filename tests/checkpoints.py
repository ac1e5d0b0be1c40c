"""A tiny checkpoint of two ranks, written without MPI, and what must be in it."""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np

from hpcpar.checkpoint import Facts, load
from hpcpar.checkpoint.commit import commit
from hpcpar.checkpoint.job import Job
from hpcpar.checkpoint.manifest import Manifest, PartFile
from hpcpar.checkpoint.part_file import write_part
from hpcpar.checkpoint.places import part_name, partial_of, place_of
from hpcpar.nn import Cut
from hpcpar.parallel.parts import Part

__all__ = ["KINDS", "TENSORS", "same", "save", "values"]

KINDS = ("weights", "exp_avg")
TENSORS = {"a.weight": (3, 4), "b": (2,), "c": (2, 6)}
_HALVES = [Cut((2, 6), 1, (run,)) for run in (range(3), range(3, 6))]  # of c
PARTS = (
    (Part("a.weight", (3, 4), None, range(7)), Part("c", (2, 6), _HALVES[0], range(6))),
    (
        Part("a.weight", (3, 4), None, range(7, 12)),
        Part("b", (2,), None, range(2)),
        Part("c", (2, 6), _HALVES[1], range(6)),
    ),
)


def values(step: int, kind: str) -> dict[str, np.ndarray]:
    """The tensors of this kind after `step` steps."""
    seed = int.from_bytes(hashlib.sha256(f"{step} {kind}".encode()).digest()[:4])
    random = np.random.default_rng(seed)
    return {n: random.standard_normal(shape, np.float32) for n, shape in TENSORS.items()}


def save(folder: Path, step: int, keep: int = 2) -> Path:
    """What `Writer` does on two ranks: two threads, then the end of it."""
    place = place_of(folder, step)
    folder.mkdir(exist_ok=True)
    partial_of(place).mkdir()
    jobs = []
    for rank, parts in enumerate(PARTS):
        rows = [np.concatenate([_taken(values(step, k), p) for p in parts]) for k in KINDS]
        path = partial_of(place) / part_name(rank)
        jobs.append(Job(partial(write_part, path, KINDS, np.stack(rows))))
    files = tuple(PartFile(*job.result(), p) for job, p in zip(jobs, PARTS, strict=True))
    facts = Facts(step, (1, step), {"blas": "x"}, "d1", "steps = 9\n", {"speeds": [1, 2.5]})
    commit(place, Manifest(facts, "2031-12-24T18:00:00Z", KINDS, files), keep)
    return place


def same(place: Path, step: int) -> bool:
    """Whether a checkpoint can be loaded, and is that of this step, bit for bit."""
    read = load(place)
    kinds = {"weights": read.model, **read.optimizer}
    return read.facts.step == step and all(
        np.array_equal(kinds[kind][name], array)
        for kind in KINDS
        for name, array in values(step, kind).items()
    )


def _taken(tensors: dict[str, np.ndarray], part: Part) -> np.ndarray:
    whole = tensors[part.name]
    local = whole if part.cut is None else part.cut.take(whole)
    return local.reshape(-1)[part.run.start : part.run.stop]
