"""`find_selection`: from the cache, or from a measurement, on rank 0 for all."""

import json
import os
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from mpi4py import MPI

import hpcpar
from hpcpar.comm.aside import Aside
from hpcpar.comm.selection.cache import load, processor, store
from hpcpar.comm.selection.table import OPERATIONS, Selection, candidates
from hpcpar.comm.selection.trial import measure_selection

if TYPE_CHECKING:
    from hpcpar.comm.communicator import Communicator

__all__ = ["find_selection"]

VARIABLE = "HPCPAR_SELECTION"  # "default" on rank 0: no measurement, the schedules' own choice
TOLD_BYTES = 2048  # a selection as rank 0 tells it


def find_selection(comm: "Communicator", backend: str = "auto") -> Selection:
    """The algorithms for this communicator, the same on every rank. Collective.

    Rank 0 looks into its cache ($XDG_CACHE_HOME/hpcpar, by default ~/.cache/hpcpar); all measure
    where nothing fits, for half a second or so. Raises `HangError` where a rank does not come.

    Args:
        comm: all of its operations work already. Its ledger does not see this.
        backend: how its arrays travel; part of what a measurement is kept for.
    """
    nodes = comm._place.map
    if not any(candidates(operation, nodes) for operation in OPERATIONS):
        return Selection()
    aside = Aside(comm.mpi, comm.timeout, "find_selection")
    found, facts = None, {}
    if comm.rank == 0:
        facts = {
            "processor": processor(),
            "cores": comm._place.cores,
            "ranks": comm.size,
            "nodes": [[node, len(list(ranks))] for node, ranks in groupby(nodes)],
            "mpi": MPI.Get_library_version().strip("\0 \n"),
            "backend": f"{backend} {comm.device.kind}",
            "hpcpar": hpcpar.__version__,
        }
        wish = os.environ.get(VARIABLE, "")
        found = Selection() if wish == "default" else load(facts, nodes)
    told = _tell(aside, found, nodes)
    if told is not None:
        return told
    aside.meet()
    measured = measure_selection(comm)
    if comm.rank == 0:
        store(facts, measured)
    told = _tell(aside, measured, nodes)
    assert told is not None
    return told


def _tell(aside: Aside, selection: Selection | None, nodes: Sequence[int]) -> Selection | None:
    """Rank 0's, on every rank."""
    text = np.zeros(TOLD_BYTES, np.uint8)
    if aside.rank == 0 and selection is not None:
        data = json.dumps(selection.to_dict()).encode()
        text[: len(data)] = np.frombuffer(data, np.uint8)
    data = aside.tell(text).tobytes().rstrip(b"\0")
    return Selection.from_dict(json.loads(data), nodes) if data else None
