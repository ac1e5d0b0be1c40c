"""Who shares a node: ranks in groups, their slices, and schedules in stages."""

from collections.abc import Sequence
from itertools import pairwise

from hpcpar.schedule.exchange import split
from hpcpar.schedule.steps import Step

__all__ = ["agent", "block_length", "consecutive", "groups_of", "interleave", "shares", "slices"]

GRAIN = 1 << 13  # elements that are worth a message between nodes

Groups = Sequence[Sequence[int]]


def groups_of(nodes: Sequence[int]) -> list[list[int]]:
    """The ranks of every node, nodes in the order of their first ranks.

    >>> groups_of((7, 7, 3, 7))
    [[0, 1, 3], [2]]
    """
    groups: dict[int, list[int]] = {}
    for rank, node in enumerate(nodes):
        groups.setdefault(node, []).append(rank)
    return list(groups.values())


def consecutive(nodes: Sequence[int]) -> bool:
    """Whether the ranks of every node follow one another."""
    return sum(a != b for a, b in pairwise(nodes)) + 1 == len(set(nodes))


def slices(run: range, group: Sequence[int]) -> list[range]:
    """The slice of `run` that each rank of a group carries."""
    return [
        range(run.start + part.start, run.start + part.stop) for part in split(len(run), len(group))
    ]


def shares(run: range, groups: Groups) -> list[tuple[range, tuple[int, ...]]]:
    """`run` cut at the ends of all groups' slices: (elements, the rank of each group with them)."""
    cuts = [slices(run, group) for group in groups]
    edges = sorted({part.stop for parts in cuts for part in parts} | {run.start})
    at = [0] * len(groups)
    found = []
    for start, stop in pairwise(edges):
        for g, parts in enumerate(cuts):
            while parts[at[g]].stop <= start:
                at[g] += 1
        owners = tuple(group[i] for group, i in zip(groups, at, strict=True))
        found.append((range(start, stop), owners))
    return found


def agent(group: Sequence[int], rank: int, groups: Groups) -> int:
    """The rank of a group that speaks with `rank`, which is of another one."""
    home = next(own for own in groups if rank in own)
    return group[home.index(rank) % len(group)]


def block_length(segment: int, groups: Groups) -> int:
    """Elements that go through all stages together.

    As many as make one message between nodes worth its while; never more than make one message
    inside a node of `segment` elements.
    """
    least = min(map(len, groups))
    return max(segment, min(GRAIN * least * len(groups), segment * least))


def interleave(blocks: Sequence[Sequence[list[Step]]], lags: Sequence[int]) -> list[Step]:
    """Stage s of block i at time i + lags[s]: what was started long ago comes before what is new.

    Every rank goes through all (block, stage) in the same order. So if a stage waits only for what
    earlier stages of its block start, nobody waits for ever.
    """
    steps: list[Step] = []
    for time in range(len(blocks) + lags[-1] if blocks else 0):
        for stage in reversed(range(len(lags))):
            if 0 <= time - lags[stage] < len(blocks):
                steps += blocks[time - lags[stage]][stage]
    return steps
