"""Performs a pipeline schedule: the reader of `schedule/pipeline.py` that really computes.

Transfers are started where the schedule says so, and travel while the next micro-batch computes:
after each layer everything under way is moved on.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcpar.device import Array
from hpcpar.nn import Arena
from hpcpar.nn.model import Layer, Loss, Tensors
from hpcpar.parallel.backward import Gradients
from hpcpar.parallel.holdings import Holdings
from hpcpar.parallel.leaves import Slot
from hpcpar.parallel.micros import Micros
from hpcpar.parallel.timeline import Timeline
from hpcpar.parallel.weights import Weights
from hpcpar.parallel.witness import Witness
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

if TYPE_CHECKING:
    from hpcpar.comm import Communicator
    from hpcpar.comm.request import Request
    from hpcpar.device import Device

__all__ = ["Performer", "visits"]

Key = tuple[int, int]  # micro-batch and stage
Saved = list[tuple[Layer, Any]]  # layers as they were called, and what each needs later


class Performer:
    """Takes the micro-batches of a rank through its stages.

    Args:
        sample_shape: of one input of the model.
        pipeline: the ranks of the pipeline axis; None for one.
        progress: moves on what is under way.
        timeline: told what the time goes into.
    """

    def __init__(
        self,
        holdings: Holdings,
        loss: Loss,
        weights: Weights,
        gradients: Gradients,
        sample_shape: tuple[int, ...],
        device: "Device",
        arena: Arena,
        pipeline: "Communicator | None",
        progress: Callable[[], object],
        timeline: Timeline,
    ) -> None:
        self._holdings, self._loss, self._weights = holdings, loss, weights
        self._gradients, self._sample, self._device = gradients, sample_shape, device
        self._arena, self._pipeline, self._progress = arena, pipeline, progress
        self._timeline = timeline
        self._last = holdings.count - 1
        self._here: dict[Key, Array] = {}  # outputs and gradients that wait for their use
        self._saved: dict[Key, Saved] = {}
        self._coming: dict[Key, tuple[Request, Array]] = {}
        self._going: list[tuple[Request, Array]] = []
        self._perform: dict[type, Callable[[Any], None]] = {
            Forward: self._forward,
            Backward: self._backward,
            BackwardInput: self._backward_input,
            BackwardWeight: self._backward_weight,
            SendActivation: self._send,
            SendGradient: self._send,
            ReceiveActivation: self._receive,
            ReceiveGradient: self._receive,
        }

    def run(
        self,
        actions: Sequence[Action],
        slots: Sequence[Slot],
        micros: Micros,
        scale: float,
        training: bool = True,
        witness: Witness | None = None,
    ) -> dict[int, float]:
        """Perform a rank's actions, whose micro-batches are `slots`; the loss of each of these.

        Args:
            micros: all micro-batches, by their number in the global batch.
            scale: of the loss whose gradient is computed.
            witness: is shown what this rank sends of its leaf.

        The losses are sums over targets, and on the last stage's ranks only. Collective.
        """
        self._slots, self._micros, self._scale = slots, micros, scale
        self._training, self._witness = training, witness
        self._losses: dict[int, float] = {}
        self._weights.begin(visits(actions, self._holdings))
        for action in actions:
            self._perform[type(action)](action)
        with self._timeline.on("communication", "messages"):
            for request, array in self._going:
                request.wait()
                self._arena.give(array)
        self._going.clear()
        return self._losses

    def _forward(self, action: Forward) -> None:
        slot, key = self._slots[action.micro], (action.micro, action.stage)
        layers = self._holdings.stages[action.stage]
        if slot.micro < 0:
            self._pass(layers)
            return
        x, targets = self._input(key, slot)
        saved, plain = [], [self._holdings.layers[number] for number in layers]
        held = self._micros.layers(slot.micro, plain, self._device)
        with self._timeline.on("compute", action):
            for number, layer in zip(layers, held, strict=True):
                x, kept = layer.forward(self._take(number), x, self._arena)
                self._weights.give(number)
                self._progress()
                if self._training:
                    saved.append((layer, kept))
                else:
                    self._arena.give(kept)
            if action.stage == self._last:
                x = self._end(slot, x, targets)
        if self._training:
            self._saved[key] = saved
        if x is not None:
            self._here[key] = x

    def _end(self, slot: Slot, outputs: Array, targets: np.ndarray | None) -> Array | None:
        """The loss, at the last stage; the gradient of its outputs if it is asked for."""
        assert targets is not None
        wanted, gradient = self._device.asarray(targets), None
        if self._training:
            loss, gradient = self._loss.value_and_gradient(
                outputs, wanted, self._scale, self._arena
            )
        else:
            loss = self._loss.value(outputs, wanted, self._arena)
            self._arena.give(outputs)
        self._losses[slot.micro] = loss
        return gradient

    def _input(self, key: Key, slot: Slot) -> tuple[Array, np.ndarray | None]:
        """What comes into a stage; and the targets, into the last one."""
        stage, targets = key[1], None
        if stage in (0, self._last):
            with self._timeline.on("data", "samples"):
                inputs, targets = self._micros.batch(slot.micro)
        if stage == 0:
            return self._arena.copy(self._device.asarray(inputs)), targets
        return self._arrived(key, (key[0], stage - 1)), targets

    def _arrived(self, key: Key, made: Key) -> Array:
        """An activation or a gradient, from another rank, or made here under the key `made`."""
        if self._pipeline is None:
            return self._here.pop(made)
        request, array = self._coming.pop(key)
        with self._timeline.on("wait", "gradient" if key[1] < 0 else "activation"):
            request.wait()
        return array

    def _backward(self, action: Backward) -> None:
        slot, layers = self._slots[action.micro], self._holdings.stages[action.stage]
        if slot.micro < 0:
            for number in reversed(layers):
                self._pass([number])
                self._gradients.passed(slot, number)
            return
        dy, saved = self._output_gradient(action)
        with self._timeline.on("compute", action):
            for number, (layer, kept) in zip(reversed(layers), reversed(saved), strict=True):
                p, g = self._take(number), self._gradients.target(slot, number)
                dy = layer.backward(p, g, dy, kept, self._arena)
                self._weights.give(number)
                self._gradients.written(slot, number)
                self._progress()
        self._input_gradient(action, dy)

    def _backward_input(self, action: BackwardInput) -> None:
        slot, layers = self._slots[action.micro], self._holdings.stages[action.stage]
        if slot.micro < 0:
            self._pass(layers[::-1])
            return
        dy, saved = self._output_gradient(action)
        kept: Saved = []
        with self._timeline.on("compute", action):
            for number, (layer, one) in zip(reversed(layers), reversed(saved), strict=True):
                p = self._take(number)
                dy, more = layer.backward_input(p, dy, one, self._arena)
                self._weights.give(number)
                kept.append((layer, more))
                self._progress()
        self._saved[action.micro, action.stage] = kept
        self._input_gradient(action, dy)

    def _backward_weight(self, action: BackwardWeight) -> None:
        slot, layers = self._slots[action.micro], self._holdings.stages[action.stage]
        if slot.micro < 0:
            for number in reversed(layers):
                self._gradients.passed(slot, number)
            return
        kept = self._saved.pop((action.micro, action.stage))
        with self._timeline.on("compute", action):
            for number, (layer, one) in zip(reversed(layers), kept, strict=True):
                layer.backward_weight(self._gradients.target(slot, number), one, self._arena)
                self._gradients.written(slot, number)
                self._progress()

    def _output_gradient(self, action: Backward | BackwardInput) -> tuple[Any, Saved]:
        """The gradient of a stage's output, and what its layers saved."""
        key = action.micro, action.stage
        saved = self._saved.pop(key)
        if action.stage == self._last:
            return self._here.pop(key), saved
        return self._arrived(_backwards(key), _backwards((action.micro, action.stage + 1))), saved

    def _input_gradient(self, action: Backward | BackwardInput, dx: Array | None) -> None:
        if dx is not None:
            self._here[_backwards((action.micro, action.stage))] = dx

    def _send(self, action: SendActivation | SendGradient) -> None:
        slot = self._slots[action.micro]
        if slot.micro < 0:
            return
        key, tag = (action.micro, action.stage), 2 * action.stage
        if isinstance(action, SendGradient):
            key, tag = _backwards(key), tag + 1
        self._reclaim()
        array = self._here.pop(key)
        if self._witness is not None and self._witness.leaf == slot.leaf:
            self._witness.sent(slot.micro, action, array)
        assert self._pipeline is not None
        self._going.append((self._pipeline.isend(array, action.to, tag), array))

    def _receive(self, action: ReceiveActivation | ReceiveGradient) -> None:
        slot = self._slots[action.micro]
        if slot.micro < 0:
            return
        key, stage = (action.micro, action.stage), action.stage
        tag = 2 * (stage - 1)
        if isinstance(action, ReceiveGradient):
            key, stage, tag = _backwards(key), stage + 1, 2 * (stage + 1) + 1
        shape = self._holdings.input_shape(stage, (self._micros.count(slot.micro), *self._sample))
        array = self._arena.take(shape, np.float32)
        assert self._pipeline is not None
        self._coming[key] = self._pipeline.irecv(array, action.source, tag), array

    def _reclaim(self) -> None:
        """Take back the arrays that have been sent."""
        if self._going:
            self._progress()
        while self._going and self._going[0][0].done:
            request, array = self._going.pop(0)
            request.wait()
            self._arena.give(array)

    def _take(self, layer: int) -> Tensors:
        """The parameters of a layer, which may have to be waited for."""
        if not self._weights.travel:
            return self._weights.take(layer)
        with self._timeline.on("communication", "parameters"):
            return self._weights.take(layer)

    def _pass(self, layers: Sequence[int]) -> None:
        """Take part in gathering the parameters that others need."""
        for layer in layers:
            self._take(layer)
            self._weights.give(layer)


def visits(actions: Sequence[Action], holdings: Holdings) -> list[int]:
    """The layers whose parameters are needed, in the order in which they are."""
    found: list[int] = []
    for action in actions:
        if isinstance(action, Forward):
            found += holdings.stages[action.stage]
        elif isinstance(action, Backward | BackwardInput):
            found += holdings.stages[action.stage][::-1]
    return found


def _backwards(key: Key) -> Key:
    """The key of a stage's input gradient, apart from that of its output."""
    return key[0], ~key[1]
