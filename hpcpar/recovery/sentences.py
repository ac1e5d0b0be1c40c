"""What is told of the ranks of a run, in words. Pure."""

from collections.abc import Sequence

from hpcpar.comm.flight.words import rank_names
from hpcpar.parallel.balance import GAIN

__all__ = ["began", "copies_lost", "dealt", "lost", "stopped"]


def began(ranks: int, nodes: int, start: int, remembered: bool) -> str:
    """A run begins, or goes on, after a step."""
    memory = ", from memory" * remembered
    return (
        f"{_many(ranks, 'rank')} on {_many(nodes, 'node')} compute from step {start + 1} on{memory}"
    )


def lost(news: Sequence[int], ranks: int, spare: int, since: str) -> str:
    """Ranks are gone, and so many go on."""
    gone = f"{rank_names(news)} {'was' if len(news) == 1 else 'were'} lost"
    go_on = f"{_many(ranks, 'rank')} go{'es' * (ranks == 1)} on {since}"
    return f"{gone}: {go_on}" + f", {spare} stand by" * (spare > 0)


def copies_lost(names: Sequence[str]) -> str:
    """Nobody has these tensors any more."""
    some = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
    return (
        f"parts of {some} were lost with their copies: the run goes on from its newest checkpoint"
    )


def dealt(speeds: Sequence[float]) -> str:
    """Work moves to the ranks that are faster."""
    least, most = min(speeds), max(speeds)
    slow = [rank for rank, speed in enumerate(speeds) if speed < (1 - GAIN) * most]
    who = f"{rank_names(slow)} compute{'s' * (len(slow) == 1)} slower, down to {least / most:.2f}"
    return f"{who if slow else 'some ranks are slower'}: leaves and layers are dealt anew"


def stopped(step: int, folder: str, lost: Sequence[int]) -> str:
    """A run has stopped on a signal, or for ranks that were `lost`."""
    again = f"start again with --run.dir {folder} --run.resume true"
    if lost:
        again = f"{rank_names(lost)} can be started again, with all others"
    return f"stopped after step {step}, saved: {again}"


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count > 1)}"
