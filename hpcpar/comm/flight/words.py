"""How ranks, calls and times are written in verdicts and tables."""

from collections.abc import Sequence

from hpcpar.comm.flight.layout import ranges_text
from hpcpar.comm.flight.rows import CallRow

__all__ = ["call_text", "place", "rank_names", "seconds_text", "size_text"]

NAMED = 4  # runs of ranks that are named, before "and 12 more"


def rank_names(ranks: Sequence[int]) -> str:
    """rank 3; ranks 0 and 5; ranks 0-3, 7 and 9; ranks 1, 3, 5, 7 and 12 more."""
    ranks = sorted(ranks)
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    runs = ranges_text(ranks).split(",")
    if len(runs) > NAMED:
        named = sum(_length(run) for run in runs[:NAMED])
        runs = [*runs[:NAMED], f"{len(ranks) - named} more"]
    if len(runs) == 1:
        return f"ranks {runs[0]}"
    return f"ranks {', '.join(runs[:-1])} and {runs[-1]}"


def call_text(call: CallRow, peer: int | None) -> str:
    """allreduce #118; recv from 2; send to 3. `peer` is the peer's rank in the world, if known."""
    if call.kind == "collective" or call.peer < 0:
        return f"{call.operation} #{call.number}"
    way = {"send": "to", "recv": "from"}.get(call.operation, "with")
    return f"{call.operation} {way} {'?' if peer is None else peer}"


def place(site: str) -> str:
    """train.py:141, of a longer path."""
    return site.rpartition("/")[2]


def seconds_text(seconds: float) -> str:
    """0.3 s; 12 s; 15 min; 3.2 h."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size_text(size: int) -> str:
    """12 B; 4.1 KB; 67 MB."""
    amount, units = float(size), ["B", "KB", "MB", "GB", "TB"]
    while amount >= 999.5 and len(units) > 1:
        amount /= 1000
        del units[0]
    return f"{amount:.{0 if amount >= 9.95 or units[0] == 'B' else 1}f} {units[0]}"


def _length(run: str) -> int:
    first, _, last = run.partition("-")
    return int(last or first) - int(first) + 1
