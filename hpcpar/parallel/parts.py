"""Parts of tensors, told apart from who holds them: saved, sent and put together again. Pure.

A part says which elements of which tensor it has, so whoever has the parts of all ranks can put the
whole tensors together, for any layout.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from hpcpar.nn import Cut

__all__ = ["Part", "assemble", "covers"]

MOST = 1 << 48  # elements of a tensor, in what is read: NumPy can say how large that is


@dataclass(frozen=True)
class Part:
    """Consecutive elements, in the order of C, of what a rank holds of one tensor.

    Attributes: name and shape, of the whole tensor; cut, what the rank holds of it (None: all);
    run, which elements of that.
    """

    name: str
    shape: tuple[int, ...]
    cut: Cut | None
    run: range

    @property
    def held(self) -> int:
        """Elements that the rank holds of the tensor."""
        return prod(self.shape if self.cut is None else self.cut.local_shape)

    def to_json(self) -> list[Any]:
        """As lists of text and numbers."""
        cut = None
        if self.cut is not None:
            cut = [self.cut.axis, [[run.start, run.stop] for run in self.cut.runs]]
        return [self.name, list(self.shape), cut, self.run.start, self.run.stop]

    @classmethod
    def from_json(cls, fields: Any) -> "Part":
        """What `to_json` gave; raises ValueError for anything else."""
        try:
            name, shape, cut, start, stop = fields
            runs = [] if cut is None else cut[1]
            extents = [] if cut is None else [cut[0]]
            numbers = [*shape, start, stop, *extents, *(end for run in runs for end in run)]
            if type(name) is not str or any(type(n) is not int or n < 0 for n in numbers):
                raise TypeError(numbers)
            if len(shape) > 8 or max([*numbers, prod(shape)]) > MOST or not name.isprintable():
                raise ValueError(numbers)
            found = None
            if cut is not None:
                (axis, _), whole = cut, tuple(range(first, last) for first, last in runs)
                ends = [end for run in whole for end in (run.start, run.stop)]
                if ends[-1] > shape[axis] or any(a > b for a, b in pairwise(ends)):
                    raise ValueError(ends)
                found = Cut(tuple(shape), axis, whole)
            part = cls(name, tuple(shape), found, range(start, stop))
            if not 0 <= start <= stop <= part.held:
                raise ValueError(start, stop)
        except (TypeError, ValueError, LookupError) as error:
            raise ValueError(f"{fields!r:.200} does not say a part of a tensor") from error
        return part


def covers(shape: tuple[int, ...], parts: Sequence[Part]) -> bool:
    """Whether parts have every element of a tensor, and none of them twice; allocates nothing."""
    by_cut: dict[Cut | None, list[range]] = {}
    for part in parts:
        if part.shape != shape:
            return False
        by_cut.setdefault(part.cut, []).append(part.run)
    held = {cut: prod(shape if cut is None else cut.local_shape) for cut in by_cut}
    if not all(_joined(runs, held[cut]) for cut, runs in by_cut.items()):
        return False
    cuts = [cut for cut in by_cut if cut is not None]
    if not cuts or None in by_cut:
        return list(by_cut) == [None]
    axes = {cut.axis for cut in cuts}
    return len(axes) == 1 and _joined([run for c in cuts for run in c.runs], shape[axes.pop()])


def _joined(runs: Sequence[range], extent: int) -> bool:
    """Whether runs, put in order, are 0 to `extent`, one beginning where another ends."""
    ends = [
        0,
        *(
            end
            for run in sorted(runs, key=lambda r: (r.start, r.stop))
            for end in (run.start, run.stop)
        ),
        extent,
    ]
    return all(a == b for a, b in zip(ends[::2], ends[1::2], strict=True))


def assemble(shape: tuple[int, ...], parts: Iterable[tuple[Part, np.ndarray]]) -> np.ndarray:
    """A whole tensor of float32 from flat parts that cover it; raises ValueError where they do not.

    Elements that several parts have are taken from the last.
    """
    whole, there = np.empty(shape, np.float32), np.zeros(shape, bool)
    held: dict[Cut | None, tuple[np.ndarray, np.ndarray]] = {}
    for part, values in parts:
        local, known = held.setdefault(
            part.cut, (np.empty(part.held, np.float32), np.zeros(part.held, bool))
        )
        local[part.run.start : part.run.stop] = values
        known[part.run.start : part.run.stop] = True
    for cut, (local, known) in held.items():
        if cut is None:
            whole.reshape(-1)[known] = local[known]
            there.reshape(-1)[known] = True
        elif known.all():
            cut.put(local.reshape(cut.local_shape), whole)
            cut.put(known.reshape(cut.local_shape), there)
    if not there.all():
        raise ValueError(f"{int(there.size - there.sum())} of {there.size} elements are missing")
    return whole
