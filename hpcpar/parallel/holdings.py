"""What a rank holds of a model: some of its layers, their parameters in buckets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hpcpar.device import Array
from hpcpar.nn import Model, Parameter
from hpcpar.nn.model import Layer, Tensors
from hpcpar.parallel.buckets import Bucket, layer_buckets

__all__ = ["Holdings", "Tie", "views"]


@dataclass(frozen=True)
class Tie:
    """A parameter that is used a second time, in another layer (the embedding, as a projection).

    Attributes: origin and use, names; home and away, the pipeline ranks that hold them; bucket, of
    this rank: the one of the origin where it is here, else that of the use; other, that of the use
    where both are here.
    """

    origin: str
    use: str
    home: int
    away: int
    bucket: int
    other: int = -1


class Holdings:
    """The layers of a pipeline rank.

    Args:
        model: the whole of it, as this rank's place on the tensor axis has it.
        stages: the layers of every virtual stage, as runs of their numbers.
        rank, ranks: on the pipeline axis; stage s is on rank s mod ranks.
        slices: ranks of the data axis, which share each bucket.

    Attributes: every, the layers of every virtual stage; stages, this rank's, by number: numbers of
    layers in `layers`; layers; buckets; gradients_of and weights_of, for each layer the numbers of
    its buckets; ties, those that this rank has an end of; replicas, names of parameters that
    another rank has as well and updates.
    """

    def __init__(
        self, model: Model, stages: Sequence[range], rank: int, ranks: int, slices: int
    ) -> None:
        self.rank, self.ranks = rank, ranks
        self.every, self.count = stages, len(stages)
        self._all, self._starts = model.layers, [run.start for run in stages]
        self.stages: dict[int, range] = {}
        self.layers: list[Layer] = []
        for number in range(rank, len(stages), ranks):
            start = len(self.layers)
            self.layers += [model.layers[i] for i in stages[number]]
            self.stages[number] = range(start, len(self.layers))
        origins = {p.name: p for p in model.parameters if p.tied_to is None}
        uses = [p for p in model.parameters if p.tied_to is not None]
        apart = {p.name for p in uses} | {p.tied_to for p in uses if p.tied_to is not None}
        here = {p.name for layer in self.layers for p in layer.parameters}

        def held(parameter: Parameter) -> Parameter:
            if parameter.tied_to is None or parameter.tied_to in here:
                return parameter
            return parameter.apart(origins[parameter.tied_to])

        self.buckets: list[Bucket] = []
        self.gradients_of: list[list[int]] = []
        for layer in self.layers:
            found = layer_buckets([held(p) for p in layer.parameters], apart, slices)
            start = len(self.buckets)
            self.buckets += found
            self.gradients_of.append(list(range(start, len(self.buckets))))
        self.home = {p.name: i for i, bucket in enumerate(self.buckets) for p in bucket.parameters}
        self.weights_of = [
            [self._with_weights(number) for number in numbers] for numbers in self.gradients_of
        ]
        self.replicas = {
            p.name for bucket in self.buckets for p in bucket.parameters if p.drawn_as is not None
        }
        self.ties = list(self._ties(model, stages, uses))

    @property
    def has_weights(self) -> list[int]:
        """The buckets with parameters of their own; those of tied uses have gradients only."""
        return [i for i, bucket in enumerate(self.buckets) if bucket.parameters[0].tied_to is None]

    @property
    def updated(self) -> list[int]:
        """The buckets that this rank's optimizer looks after."""
        return [i for i in self.has_weights if self.buckets[i].parameters[0].drawn_as is None]

    def names_in(self, layer: int, weights: Sequence[Tensors]) -> Tensors:
        """What a layer calls its parameters, from the views of its `weights_of`."""
        found = {name: view for views in weights for name, view in views.items()}
        for parameter in self.layers[layer].parameters:
            if parameter.tied_to in found:
                found[parameter.name] = found[parameter.tied_to]
        return found

    def input_shape(self, stage: int, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of what goes into a stage, where inputs of `shape` go into the model."""
        for layer in self._all[: self._starts[stage]]:
            shape = layer.output_shape(shape)
        return shape

    def _with_weights(self, number: int) -> int:
        tied_to = self.buckets[number].parameters[0].tied_to
        return number if tied_to is None else self.home[tied_to]

    def _ties(
        self, model: Model, stages: Sequence[range], uses: Sequence[Parameter]
    ) -> Iterator[Tie]:
        places = {}
        for number, run in enumerate(stages):
            for i in run:
                for parameter in model.layers[i].parameters:
                    places[parameter.name] = number % self.ranks
        for use in uses:
            assert use.tied_to is not None
            home, away = places[use.tied_to], places[use.name]
            if home == away == self.rank:
                yield Tie(use.tied_to, use.name, home, away, self.home[use.tied_to],
                          self.home[use.name])  # fmt: skip
            elif self.rank in (home, away):
                name = use.tied_to if self.rank == home else use.name
                yield Tie(use.tied_to, use.name, home, away, self.home[name])


def views(bucket: Bucket, flat: Array) -> Tensors:
    """The parameters of a bucket in its flat buffer, by name."""
    return {name: flat[place].reshape(shape) for name, place, shape in bucket.places}
