"""Seconds of what some ranks send and receive of an array, each one root of a sum. Pure."""

from hpcpar.parallel.figures import Figures

__all__ = ["ITEM", "Link"]

ITEM = 4  # bytes of a float32


class Link:
    """Among so many ranks of an axis; counts are elements, `messages` how many arrays they are."""

    def __init__(self, ranks: int, figures: Figures) -> None:
        self.ranks, self.figures = ranks, figures

    def travel(self, elements: float, messages: int = 1) -> float:
        """So many elements of `messages` arrays, in a message for each other rank."""
        latency = self.figures.latency * messages * (self.ranks - 1)
        return latency + ITEM * elements / self.figures.bandwidth

    def gather(self, size: float, messages: int = 1) -> float:
        """Slices that all get."""
        return self.travel((self.ranks - 1) * size / self.ranks, messages)

    def reduce_scatter(self, size: float) -> float:
        """Every rank's array, of which each gets a slice of the sum."""
        adding = ITEM * (self.ranks - 1) * size / self.ranks * self.figures.combine
        return self.gather(size) + adding

    def allreduce(self, size: float) -> float:
        """Every rank's array, of which all get the sum."""
        return 0.0 if self.ranks == 1 else self.reduce_scatter(size) + self.gather(size)
