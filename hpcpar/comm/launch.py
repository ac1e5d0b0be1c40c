"""A start that silently went wrong."""

from collections.abc import Mapping

from hpcpar.errors import UserError

__all__ = ["refuse_single_worlds"]

_LAUNCHERS = ("OMPI_", "PMI_", "PMIX_")


def refuse_single_worlds(environ: Mapping[str, str], size: int) -> None:
    """Raise `UserError` when srun started many processes that do not see each other.

    Without a PMI plugin that the MPI library understands, `srun -n 8` starts eight worlds of one
    rank, which would all do the same work and write the same files (ompi#13523).
    """
    try:
        tasks = int(environ.get("SLURM_STEP_NUM_TASKS", "1"))
    except ValueError:
        return
    if size == 1 and tasks > 1 and not any(name.startswith(_LAUNCHERS) for name in environ):
        raise UserError(
            f"srun started {tasks} processes, but each is an MPI world of its own: "
            "start with srun --mpi=pmix (srun --mpi=list shows what there is), or with mpirun"
        )
