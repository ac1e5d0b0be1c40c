"""Measured links: the same figures on every rank, in no ledger, and no wait without a limit."""

import json
import math

import numpy as np
import pytest

from hpcpar.comm import Communicator, agree
from hpcpar.comm.measure import choose_pairs, measure_links
from hpcpar.errors import HangError


def test_figures(comm):
    before = str(comm.ledger)
    links = measure_links(comm)
    assert str(comm.ledger) == before
    nodes = [int(node) for node in comm.allgather(np.array([comm.node]))]
    pairs = [(*pair.ranks, pair.kind) for pair in links.pairs]
    assert pairs == choose_pairs(nodes)
    figures = [links.copy, links.combine]
    figures += [n for pair in links.pairs for n in (pair.link.latency, pair.link.bandwidth)]
    assert all(math.isfinite(figure) and figure > 0 for figure in figures)
    texts = agree(comm, json.dumps(links.to_dict()))
    assert texts == [texts[0]] * comm.size


@pytest.mark.mpi(min_size=2)
def test_a_rank_that_does_not_come(comm):
    apart = Communicator(comm.mpi.Dup(), timeout=0.5)  # never freed: a call on it does not end
    if apart.rank != 1:
        with pytest.raises(HangError, match=r"0\.5 s in measure_links for the other ranks"):
            measure_links(apart)
    comm.barrier()
