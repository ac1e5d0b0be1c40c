"""The pictures of benchmarks/matmul.py: rates that were measured, and curves that were priced."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpcpar.linalg.bounds import lower_bound
from hpcpar.linalg.cost import price
from hpcpar.linalg.grids import Plan, candidates
from hpcpar.linalg.machine import Machine
from hpcpar.linalg.problem import Problem

__all__ = ["plot", "price_curves"]

RANKS = [2**power for power in range(13)]  # 1 to 4,096
# A cluster's node with a thread a rank: a round figure for each, to show the shape of the curves.
CLUSTER = Machine(flops=1e11, copy=1e-10, latency=2e-6, bandwidth=1e10, shared=False)


def price_curves(cases: Sequence[str], counts: Sequence[int]) -> list[dict[str, Any]]:
    """Words and seconds of the best grid for each number of ranks: strong scaling, by the model."""
    curves = []
    for case in cases:
        shape = m, n, k = tuple(map(int, case.split(",")))
        for ranks in counts:
            problem = Problem(shape, ranks, 4, 4)
            plans = (Plan(shape, grid) for grid in candidates(shape, ranks, "3d"))
            best = min((price(problem, plan, CLUSTER) for plan in plans), key=lambda c: c.seconds)
            curves.append({
                "m": m, "n": n, "k": k, "ranks": ranks, "grid": list(best.plan.grid),
                "words": best.words, "bound": lower_bound(m, n, k, ranks),
                "seconds": best.seconds, "priced": True,
            })  # fmt: skip
    return curves


def plot(
    path: Path,
    rows: Sequence[dict[str, Any]] = (),
    curves: Sequence[dict[str, Any]] = (),
) -> None:
    """Bars of GF/s, a panel for each shape; or priced words and seconds over ranks."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    items = rows or curves
    shapes = list(dict.fromkeys((item["m"], item["n"], item["k"]) for item in items))
    down = 1 if rows else 2
    figure, axes = pyplot.subplots(
        down, len(shapes), figsize=(1 + 3.2 * len(shapes), 0.6 + 3.4 * down), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for across, shape in enumerate(shapes):
        mine = [item for item in items if (item["m"], item["n"], item["k"]) == shape]
        axes[0][across].set_title(" x ".join(map(str, shape)) + " (m n k)", fontsize=9)
        if rows:
            names = [f"{item['algorithm']}, {item['ranks']} ranks" for item in mine]
            colors = ["C0" if name.startswith("hpcpar") else "C7" for name in names]
            axes[0][across].barh(
                names[::-1], [item["gflops"] for item in mine][::-1], color=colors[::-1]
            )
            axes[0][across].tick_params(labelsize=6)
            axes[0][across].set_xlabel("GF/s (measured)")
            continue
        ranks = [item["ranks"] for item in mine]
        words = [
            (p, item["words"], item["bound"]) for p, item in zip(ranks, mine, strict=True) if p > 1
        ]
        axes[0][across].loglog(
            *zip(*((p, w) for p, w, _ in words), strict=True), marker=".", label="best grid"
        )
        axes[0][across].loglog(
            *zip(*((p, b) for p, _, b in words), strict=True), "k--", label="lower bound"
        )
        axes[1][across].loglog(
            ranks, [item["seconds"] for item in mine], marker=".", label="best grid"
        )
        ideal = [mine[0]["seconds"] / p for p in ranks]
        axes[1][across].loglog(ranks, ideal, "k--", label="1 rank / P")
        axes[1][across].set_xlabel("ranks")
        axes[0][0].set_ylabel("words a rank (priced)")
        axes[1][0].set_ylabel("seconds (priced)")
        axes[0][0].legend(fontsize=7)
        axes[1][0].legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)
