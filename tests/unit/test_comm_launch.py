"""srun that starts worlds of one rank is refused; everything else is not."""

import pytest

from hpcpar.comm.launch import refuse_single_worlds
from hpcpar.errors import UserError


@pytest.mark.parametrize(
    "setting", ["PATH", "OMPI_MCA_btl", "OMPI_ALLOW_RUN_AS_ROOT", "PMIX_MCA_psec"]
)
def test_srun_without_pmi(setting):
    with pytest.raises(UserError, match="srun started 8 processes"):
        refuse_single_worlds({"SLURM_STEP_NUM_TASKS": "8", setting: "1"}, 1)


@pytest.mark.parametrize(
    ("environ", "size"),
    [
        ({}, 1),
        ({"SLURM_STEP_NUM_TASKS": "1"}, 1),
        ({"SLURM_STEP_NUM_TASKS": "8"}, 8),
        ({"SLURM_STEP_NUM_TASKS": "8", "PMIX_RANK": "0"}, 1),
        ({"SLURM_STEP_NUM_TASKS": "8", "OMPI_COMM_WORLD_SIZE": "1"}, 1),
        ({"SLURM_STEP_NUM_TASKS": "8", "PMI_SIZE": "1"}, 1),
        ({"SLURM_STEP_NUM_TASKS": "many"}, 1),
    ],
)
def test_legitimate_starts(environ, size):
    refuse_single_worlds(environ, size)
