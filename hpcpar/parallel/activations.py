"""What a rank's arena grows to in a step: activations, messages and scratch. Pure.

The rank's actions are gone through as in `perform.py`, but arrays are only counted, by size: an
arena ends up with as many of each size as were ever lent at a time.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np

from hpcpar.nn import Model
from hpcpar.nn.footprint import Footprint, Sizes, floats
from hpcpar.nn.model import PlannedLoss, planned
from hpcpar.schedule.pipeline_actions import (
    Action,
    Backward,
    BackwardInput,
    BackwardWeight,
    Forward,
    ReceiveActivation,
    ReceiveGradient,
    SendActivation,
    SendGradient,
)

__all__ = ["arena_bytes"]


class _Effect:
    """What an action does to what is lent: `change` in the end, `peak` within. By size."""

    def __init__(self) -> None:
        self.change: dict[int, int] = {}
        self.peak: dict[int, int] = {}

    def take(self, sizes: Sizes) -> None:
        for size, count in sizes.items():
            self.change[size] = self.change.get(size, 0) + count
        self.over({})

    def give(self, sizes: Sizes) -> None:
        for size, count in sizes.items():
            self.change[size] = self.change.get(size, 0) - count

    def over(self, extra: Mapping[int, int]) -> None:
        """So many more are lent for a while."""
        for size in {*self.change, *extra}:
            now = self.change.get(size, 0) + extra.get(size, 0)
            self.peak[size] = max(self.peak.get(size, 0), now)


class _Stages:
    """The effects of compute actions on virtual stages."""

    def __init__(
        self, model: Model, stages: Sequence[range], shape: tuple[int, ...], host: bool
    ) -> None:
        self._model, self._stages, self._host = model, stages, host
        self.shapes = [shape]  # of what goes into each layer, and of what comes out of the last
        for layer in model.layers:
            self.shapes.append(layer.output_shape(self.shapes[-1]))
        self._known: dict[tuple[type, int], _Effect] = {}
        self._make: dict[type, Callable[[int], _Effect]] = {
            Forward: self._forward,
            Backward: self._backward,
            BackwardInput: self._input,
            BackwardWeight: self._weight,
        }

    def message(self, layer: int) -> Sizes:
        """What goes into a layer."""
        return floats((prod(self.shapes[layer]), 1))

    def of(self, kind: type, stage: int) -> _Effect:
        """The effect of such an action."""
        if (kind, stage) not in self._known:
            self._known[kind, stage] = self._make[kind](stage)
        return self._known[kind, stage]

    def _forward(self, stage: int) -> _Effect:
        effect = _Effect()
        if stage == 0:
            effect.take(self.message(0))
        for number in self._stages[stage]:
            needs = self._footprint(number)
            effect.over(needs.forward)
            effect.give(self.message(number))
            effect.take(needs.saved + self.message(number + 1))
        if stage == len(self._stages) - 1:
            loss = self._model.loss_function
            if not isinstance(loss, PlannedLoss):
                raise ValueError(f"there is no plan with a {type(loss).__name__}")
            effect.over(loss.scratch(self.shapes[-1]))
        return effect

    def _backward(self, stage: int) -> _Effect:
        effect = _Effect()
        for number in reversed(self._stages[stage]):
            needs = self._footprint(number)
            effect.over(needs.backward)
            effect.give(needs.saved + self.message(number + 1))
            effect.take(self.message(number) if number else floats())
        return effect

    def _input(self, stage: int) -> _Effect:
        effect = _Effect()
        for number in reversed(self._stages[stage]):
            needs = self._footprint(number)
            effect.over(needs.input)
            effect.give(needs.saved + self.message(number + 1))
            effect.take(needs.kept + (self.message(number) if number else floats()))
        return effect

    def _weight(self, stage: int) -> _Effect:
        effect = _Effect()
        for number in reversed(self._stages[stage]):
            needs = self._footprint(number)
            effect.over(needs.weight)
            effect.give(needs.kept)
        return effect

    def _footprint(self, number: int) -> Footprint:
        return planned(self._model.layers[number]).footprint(self.shapes[number], self._host)


def arena_bytes(
    model: Model,
    stages: Sequence[range],
    actions: Sequence[Action],
    working: Sequence[bool],
    micro: int,
    host: bool = True,
) -> int:
    """Bytes of all arrays that a rank's actions have lent at a time, the most of each size.

    Args:
        model: with its layers as they are trained (`recomputed`).
        stages: the layers of every virtual stage.
        working: for each micro-batch of the actions, whether the rank has one there.
        micro: samples in a micro-batch.
        host: whether operations go block by block, as on a CPU.

    A message counts as gone when the next one is sent; a slow receiver may keep more of them.
    """
    known = _Stages(model, stages, (micro, *model.input_shape), host)
    effects: list[_Effect] = []
    sent: Sizes = floats()
    for action in actions:
        if not working[action.micro]:
            continue
        run = stages[action.stage]
        if isinstance(action, SendActivation | SendGradient):
            effect = _Effect()
            effect.give(sent)
            sent = known.message(run.stop if isinstance(action, SendActivation) else run.start)
        elif isinstance(action, ReceiveActivation | ReceiveGradient):
            effect = _Effect()
            back = isinstance(action, ReceiveGradient)
            effect.take(known.message(run.stop if back else run.start))
        else:
            effect = known.of(type(action), action.stage)
        effects.append(effect)
    return _most(effects)


def _most(effects: Sequence[_Effect]) -> int:
    """The bytes of the largest numbers of arrays of each size, over a sequence of effects."""
    sizes = sorted({size for effect in effects for size in (*effect.change, *effect.peak)})
    place = {size: column for column, size in enumerate(sizes)}
    changes = np.zeros((len(effects), len(sizes)), np.int64)
    peaks = np.zeros_like(changes)
    rows: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for number, effect in enumerate(effects):
        if id(effect) not in rows:
            change, peak = np.zeros(len(sizes), np.int64), np.zeros(len(sizes), np.int64)
            for size, count in effect.change.items():
                change[place[size]] = count
            for size, count in effect.peak.items():
                peak[place[size]] = count
            rows[id(effect)] = change, peak
        changes[number], peaks[number] = rows[id(effect)]
    before = np.cumsum(changes, axis=0) - changes
    most = (before + peaks).max(axis=0, initial=0)
    return int(most @ np.array(sizes, np.int64)) if sizes else 0
