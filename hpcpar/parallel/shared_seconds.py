"""How long a micro-batch is in layers that tensor- and context-parallel ranks share. Pure."""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from hpcpar.nn import Model
from hpcpar.nn.model import planned
from hpcpar.parallel.costs import LayerSeconds
from hpcpar.parallel.figures import Figures
from hpcpar.parallel.layout import Layout
from hpcpar.parallel.link import ITEM, Link
from hpcpar.parallel.traffic import Traffic, shared_layers

__all__ = ["Spent", "shared_seconds"]

# What norms and additions to the residual stream take, in additions of two arrays of its size: as
# `ops.layernorm` takes beside np.add, on one core of a Xeon, for (2048, 512).
ALONG = LayerSeconds(26.0, 30.0, 0.0)


class Spent(NamedTuple):
    """A micro-batch in a layer: computing, and waiting for the ranks that share it."""

    computing: LayerSeconds
    waiting: LayerSeconds

    @property
    def total(self) -> LayerSeconds:
        """Both."""
        one, other = self
        return LayerSeconds(
            one.forward + other.forward, one.backward + other.backward, one.weight + other.weight
        )

    def again(self) -> "Spent":
        """With a forward more in backward: recomputed."""
        return Spent(*(LayerSeconds(t.forward, t.backward + t.forward, t.weight) for t in self))


def shared_seconds(
    model: Model, shares: Sequence[Model], layout: Layout, figures: Figures
) -> list[Spent]:
    """For each layer, on the ranks that have most to compute of it.

    Args:
        model: as it is on one rank; the figures are its.
        shares: the model as it is on ranks that may have most to do (`shared_model`).

    Products take what a rank has of their operations. Norms and the residual stream are shared by
    `sequence` and by context only.
    """
    nothing = LayerSeconds(0.0, 0.0, 0.0)
    if layout.tensor == layout.context == 1:
        return [Spent(one, nothing) for one in figures.layers]
    micro, found = layout.batch.micro, list[Spent]()
    every = [[*shared_layers(share, micro)] for share in shares]
    for (layer, shape, _), seconds, *mine in zip(
        shared_layers(model, micro), figures.layers, *every, strict=True
    ):
        flops = planned(layer).flops(shape)
        own = max(planned(part).flops(inputs) for part, inputs, _ in mine)
        traffic = mine[0][2]
        assert traffic is not None
        of_rows = 1 / layout.context / (layout.tensor if traffic.group.sequence else 1)
        share = own / flops if flops else 1 / layout.context
        stream = prod(layer.output_shape(shape)) if any(traffic.sums) and len(shape) > 2 else 0
        along = ITEM * stream * figures.combine * max(0.0, of_rows - share)
        computing = LayerSeconds(
            share * seconds.forward + ALONG.forward * along,
            share * seconds.backward + ALONG.backward * along,
            share * seconds.weight,
        )
        found.append(Spent(computing, _waiting(traffic, computing, own, layout, figures)))
    return found


def _waiting(
    traffic: Traffic, computing: LayerSeconds, flops: float, layout: Layout, figures: Figures
) -> LayerSeconds:
    """Sums and rows for which the next product waits; keys and values that come too late."""
    link, size = Link(layout.tensor, figures), traffic.rows * traffic.width
    forward = backward = 0.0
    if layout.tensor > 1:
        rows = traffic.group.sequence
        each = link.reduce_scatter(size) if rows else link.allreduce(size)
        gather = link.gather(size) if rows else 0.0
        whole = link.allreduce(size)
        small = link.allreduce(2 * traffic.rows)
        # While a sum is under way in backward, a weight's gradient is computed.
        beside = computing.weight / traffic.sums[1] if traffic.beside and figures.overlap else 0.0
        forward = traffic.sums[0] * each + traffic.gathers[0] * gather + traffic.small * small
        forward += traffic.whole[0] * whole
        backward = traffic.sums[1] * max(0.0, each - beside) + traffic.gathers[1] * gather
        backward += traffic.whole[1] * whole
    if traffic.ring:
        ring, steps = Link(2, figures), layout.context - 1
        attending = traffic.attended / flops / layout.context if figures.overlap else 0.0
        there, back = ring.travel(traffic.ring), ring.travel(2 * traffic.ring, 2)
        forward += steps * max(0.0, there - attending * computing.forward)
        backward += steps * max(0.0, back - attending * computing.backward)
    return LayerSeconds(forward, backward, 0.0)
