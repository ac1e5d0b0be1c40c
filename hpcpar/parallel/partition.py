"""Which partition of the data goes with what, asked before anything is computed. Pure."""

from hpcpar.data import DataConfig
from hpcpar.errors import UserError
from hpcpar.parallel.config import ParallelConfig

__all__ = ["check_batches", "check_partition", "check_workers"]


def check_partition(
    data: DataConfig, model: str, parallel: ParallelConfig, apart: bool = False
) -> None:
    """Raises `UserError` for a partition that does not go with the rest.

    Args:
        model: its kind.
        apart: whether workers train with servers, or by themselves.
    """
    partition = data.partition
    if partition == "feature" and model == "gpt":
        raise UserError(
            "--data.partition feature shares out the columns of a table: take --model.kind mlp or "
            "linear, or a GPT by sample or by batch"
        )
    if partition == "feature" and data.kind != "table":
        raise UserError(
            "--data.partition feature shares out the columns of a table, and "
            f"--data.kind {data.kind} has none: take --data.kind table"
        )
    if partition != "sample" and apart:
        raise UserError(
            "--sync.servers and --sync.mode local share out every global batch: leave "
            f"--data.partition {partition} out, or train with --sync.mode bsp and without servers"
        )
    if partition != "sample" and parallel.plan:
        raise UserError(
            f"--parallel.plan {parallel.plan} knows --data.partition sample only: leave the plan "
            f"out, and say with --parallel.data and --parallel.tensor how many ranks do what"
        )


def check_workers(workers: int, features: int) -> None:
    """Raises `UserError` where tensor-parallel ranks are more than the columns that they share."""
    if workers > features:
        raise UserError(
            f"--data.partition feature: {workers} ranks share {features} "
            f"feature{'s' * (features > 1)} of a table: take at most as many ranks, or "
            f"--parallel.tensor {features} with --parallel.data -1"
        )


def check_batches(workers: int, size: int, samples: int) -> None:
    """Raises `UserError` where ranks take more batches a step, of `size`, than an epoch has."""
    most = max(1, samples // size)
    if workers > most:
        raise UserError(
            f"--data.partition batch: {workers} data-parallel ranks take {workers} batches of "
            f"{size} samples a step, and an epoch of {samples} samples has {most}: take at most as "
            "many of them, or a smaller --batch.size"
        )
