"""loss.svg: the loss over the steps."""

from pathlib import Path
from typing import Any

__all__ = ["draw_loss"]


def draw_loss(
    path: Path, metrics: list[dict[str, Any]], baseline: tuple[str, float] | None
) -> None:
    """Draw training and validation loss, and a baseline's as a line, into an SVG file."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot(xlabel="step", ylabel="loss")
    axes.plot(
        [row["step"] for row in metrics], [row["loss"] for row in metrics], lw=1, label="training"
    )
    looks = [row for row in metrics if "validation_loss" in row]
    if looks:
        steps, losses = zip(*((row["step"], row["validation_loss"]) for row in looks), strict=True)
        axes.plot(steps, losses, "o-", lw=1.5, label="validation")
    if baseline:
        axes.axhline(baseline[1], color="gray", ls="--", lw=1, label=baseline[0])
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, format="svg")
