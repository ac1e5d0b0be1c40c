"""Two states of a rank in one memory: the last step's stays whole while the next one's is written.

Where a rank is killed in the middle of it, the slot that it was writing says that it holds nothing.
"""

import json
from collections.abc import Iterator, Sequence

import numpy as np

from hpcpar.device import Array, to_host
from hpcpar.parallel.parts import Part

__all__ = ["Slots"]

MAGIC = 0x6870637061720001
HEAD = 64  # bytes: MAGIC, bytes of the layout's text, and per slot step and bytes of its text
TEXT = 1 << 15  # bytes of the text beside a state
NOTHING = -1


class Slots:
    """On memory of `Slots.bytes(...)`, zeroed; of the ranks of another job where `layout` is None.

    Raises ValueError for memory that does not hold what it should.

    Args:
        layout: the parts, and the kinds of array that there are of each.
    """

    def __init__(
        self, memory: np.ndarray, layout: tuple[Sequence[Part], Sequence[str]] | None = None
    ) -> None:
        if len(memory) < HEAD:
            raise ValueError(f"{len(memory)} bytes are too few")
        self._memory, self._words = memory, memory[:HEAD].view(np.int64)
        if layout is not None:
            text = _told(layout)
            self._words[1:6] = len(text), NOTHING, 0, NOTHING, 0
            memory[HEAD : HEAD + len(text)] = np.frombuffer(text, np.uint8)
            self._words[0] = MAGIC
            self.parts, self.kinds = list(layout[0]), list(layout[1])
        else:
            self.parts, self.kinds = self._read_layout()
        each = sum(len(part.run) for part in self.parts) * len(self.kinds)
        begin = _aligned(HEAD + int(self._words[1])) + 2 * TEXT
        if len(memory) != begin + 8 * each:
            raise ValueError(f"{len(memory)} bytes are not what its layout takes")
        self._texts = memory[begin - 2 * TEXT : begin].reshape(2, TEXT)
        self._states = memory[begin:].view(np.float32).reshape(2, each)

    @staticmethod
    def bytes(parts: Sequence[Part], kinds: Sequence[str]) -> int:
        """What two states take."""
        each = sum(len(part.run) for part in parts) * len(kinds)
        return _aligned(HEAD + len(_told((parts, kinds)))) + 2 * TEXT + 8 * each

    def write(self, step: int, text: str, arrays: Sequence[Sequence[Array]]) -> None:
        """The state after a step, over the older of the two; `arrays` by part, then by kind."""
        words = self._words[2:6].reshape(2, 2)
        slot = int(np.argmin(words[:, 0]))
        words[slot] = NOTHING, 0
        told, state = text.encode(), self._states[slot]
        if len(told) > TEXT:
            raise ValueError(f"{len(told)} bytes of text beside a state; it may have {TEXT}")
        self._texts[slot, : len(told)] = np.frombuffer(told, np.uint8)
        at = 0
        for of_part in arrays:
            for array in of_part:
                state[at : at + array.size] = to_host(array)
                at += array.size
        words[slot] = step, len(told)

    def read(self) -> Iterator[tuple[int, str, list[tuple[Part, dict[str, np.ndarray]]]]]:
        """Step, text and parts of each state that is there."""
        for slot, (step, length) in enumerate(self._words[2:6].reshape(2, 2).tolist()):
            if step < 0 or not 0 <= length <= TEXT:
                continue
            at, found = 0, []
            for part in self.parts:
                size = len(part.run)
                values = self._states[slot, at : at + size * len(self.kinds)]
                by_kind = values.reshape(len(self.kinds), size)
                found.append((part, dict(zip(self.kinds, by_kind, strict=True))))
                at += values.size
            yield step, self._texts[slot, :length].tobytes().decode(errors="replace"), found

    def _read_layout(self) -> tuple[list[Part], list[str]]:
        magic, length = self._words[:2].tolist()
        if magic != MAGIC or not 0 < length <= len(self._memory) - HEAD:
            raise ValueError("this is no memory of a rank")
        fields = json.loads(self._memory[HEAD : HEAD + length].tobytes())
        try:
            parts, kinds = fields
            found = [Part.from_json(part) for part in parts]
            if not kinds or any(type(kind) is not str for kind in kinds):
                raise TypeError(kinds)
        except TypeError as error:
            raise ValueError("this is no memory of a rank") from error
        return found, kinds


def _told(layout: tuple[Sequence[Part], Sequence[str]]) -> bytes:
    parts, kinds = layout
    return json.dumps([[part.to_json() for part in parts], list(kinds)]).encode()


def _aligned(size: int) -> int:
    return -(-size // 64) * 64
