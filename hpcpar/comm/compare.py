"""Short facts that must be the same on all ranks, and who differs."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hpcpar.comm.agree import agree
from hpcpar.fingerprint import differences

if TYPE_CHECKING:
    from hpcpar.comm.communicator import Communicator

__all__ = ["compare_ranks"]


def compare_ranks(comm: "Communicator", mine: Mapping[str, str]) -> list[str]:
    """Compare facts by name with rank 0's: a sentence for each rank that differs.

    Collective; every rank gets the same list.
    """
    facts = [json.loads(text or "{}") for text in agree(comm, json.dumps(dict(mine)))]
    return [
        f"rank {rank} differs from rank 0 in " + "; ".join(found)
        for rank, theirs in enumerate(facts)
        if (found := differences(facts[0], theirs))
    ]
