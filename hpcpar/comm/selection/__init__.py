"""Which algorithm a collective takes: measured once per machine, kept in the user's cache.

>>> selection = find_selection(comm)
>>> selection.choose("allreduce", 1 << 20)
'halving'

All candidates have the same bits, those of the tree over the ranks, so the choice never changes a
result; ring and mpi are none. Rank 0's choice holds for all.
"""

from hpcpar.comm.selection.find import find_selection
from hpcpar.comm.selection.table import LARGE, Selection, candidates

__all__ = ["LARGE", "Selection", "candidates", "find_selection"]
