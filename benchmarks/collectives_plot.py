"""The picture of benchmarks/collectives.py: time over size, a line for each competitor."""

from pathlib import Path
from typing import Any

__all__ = ["draw"]

PANELS = ("allreduce", "allreduce in place", "bcast")
STYLES = {
    "hpcpar, symmetric": {"color": "C0", "linewidth": 2.4},
    "hpcpar": {"color": "C1", "linewidth": 2.4},
    "Open MPI": {"color": "C2"},
    "best MPI": {"color": "C2", "linestyle": ":"},
    "MPICH": {"color": "C4"},
    "gloo": {"color": "C5"},
    "nccl": {"color": "C6"},
    "limit": {"color": "black", "linestyle": "--", "marker": ""},
}


def draw(report: dict[str, Any], path: Path) -> None:
    """A panel for each operation (across) and number of ranks (down); both axes logarithmic."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    rows = report["rows"]
    operations = [name for name in PANELS if any(row["operation"] == name for row in rows)]
    counts = sorted({row["ranks"] for row in rows})
    figure, axes = pyplot.subplots(
        len(counts),
        len(operations),
        figsize=(1 + 3.6 * len(operations), 1.4 + 3.2 * len(counts)),
        squeeze=False,
        layout="constrained",
    )
    for down, ranks in enumerate(counts):
        for across, operation in enumerate(operations):
            axis = axes[down][across]
            for name, style in STYLES.items():
                points = sorted(_points(rows, ranks, operation, name).items())
                if points:
                    axis.loglog(*zip(*points, strict=True), **{"marker": ".", **style}, label=name)
            axis.set_title(f"{operation}, {ranks} ranks", fontsize=10)
            axis.grid(alpha=0.3)
        axes[down][0].set_ylabel("time (microseconds)")
    for axis in axes[-1]:
        axis.set_xlabel("size (bytes)")
    lines: dict[str, Any] = {}
    for axis in axes.flat:
        lines |= {name: line for line, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=4, fontsize=8)
    processor, cores = report["machine"]["processor"], report["machine"]["cores"]
    made = f"{processor}, {cores} cores, commit {report['commit']}"
    figure.suptitle(f"Measured, {report['rounds']} rounds: {made}", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)


def _points(rows: list[dict[str, Any]], ranks: int, operation: str, name: str) -> dict[int, float]:
    """Microseconds by size of one line."""
    if name == "limit":
        operation = operation.replace("allreduce", "copy")
    points: dict[int, float] = {}
    for row in rows:
        if (row["ranks"], row["operation"]) != (ranks, operation):
            continue
        if row["algorithm"] == name or (name == "best MPI" and row["mpi"]):
            size, time = row["size"], 1e6 * row["seconds"]
            points[size] = min(time, points.get(size, time))
    return points
