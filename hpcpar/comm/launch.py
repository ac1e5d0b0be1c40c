"""A start that silently went wrong."""

from collections.abc import Mapping

from hpcpar.errors import UserError

__all__ = ["refuse_single_worlds"]

# What a launcher sets for each process; OMPI_MCA_* and the like are settings, which sites make too.
_LAUNCHED = (
    "OMPI_COMM_WORLD_SIZE",
    "PMIX_RANK",
    "PMIX_NAMESPACE",
    "PMI_RANK",
    "PMI_SIZE",
    "PMI_FD",
)


def refuse_single_worlds(environ: Mapping[str, str], size: int) -> None:
    """Raise `UserError` when srun started many processes that do not see each other.

    Without a PMI plugin that the MPI library understands, `srun -n 8` starts eight worlds of one
    rank, which would all do the same work and write the same files (ompi#13523).
    """
    try:
        tasks = int(environ.get("SLURM_STEP_NUM_TASKS", "1"))
    except ValueError:
        return
    if size == 1 and tasks > 1 and not any(name in environ for name in _LAUNCHED):
        raise UserError(
            f"srun started {tasks} processes, but each is an MPI world of its own: "
            "start with srun --mpi=pmix (srun --mpi=list shows what there is), or with mpirun"
        )
