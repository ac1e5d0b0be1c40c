"""An audit's verdict in words. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from hpcpar.recovery.verdict import Verdict

__all__ = ["Blame", "describe"]

MOST = 3  # layers that are named


class Blame(NamedTuple):
    """What is said of one column.

    Attributes: ranks and hosts of those that may be wrong; layers, names of what is wrong.
    """

    ranks: Sequence[int]
    hosts: Sequence[str]
    layers: Sequence[str]


def describe(step: int, leaf: int, blames: Sequence[Blame], verdict: Verdict, alone: bool) -> str:
    """One sentence: who, where, what, and whether it lasts."""
    who = " and ".join(_who(blame) for blame in blames)
    layers = list(dict.fromkeys(layer for blame in blames for layer in blame.layers))
    what = f"the gradient of leaf {leaf} at step {step}, in {_some(layers)}"
    if alone:
        return f"wrong bits: {who} computed {what}, twice, and they differ: a passing fault"
    if not verdict.decided:
        why = "no two of them agree" if len(blames) > 2 else "there is no third data-parallel rank"
        return (
            f"wrong bits: {who} differ in {what}, also when it is computed again: a lasting fault; "
            f"which of them is wrong cannot be decided, for {why}"
        )
    fault = "wrong again: a lasting fault" if verdict.lasting else "right: a passing fault"
    return (
        f"wrong bits: {who} computed {what}, wrongly: two other computations agree on another "
        f"result; computed once more it was {fault}"
    )


def _who(blame: Blame) -> str:
    named = [f"rank {r} (on {h})" for r, h in zip(blame.ranks, blame.hosts, strict=True)]
    return named[0] if len(named) == 1 else f"one of {', '.join(named[:-1])} or {named[-1]}"


def _some(names: Sequence[str]) -> str:
    if not names:
        return "what it sends to other stages"
    rest = len(names) - MOST
    return ", ".join(names[:MOST]) + (f" and {rest} more" if rest > 0 else "")
