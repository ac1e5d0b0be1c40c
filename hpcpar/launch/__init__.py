"""Start a job, watch it, and start it again when it dies: python -m hpcpar launch.

mpirun.py     how mpirun is run here
arguments.py  the command line, and what the program's own says
attempts.py   whether a job is started again, and on how many ranks
hosts.py      which hosts can be reached
job.py        one job: its output, signs of life, its end
launch.py     the jobs, one after the other

Nothing here is a rank: no MPI, no NumPy.
"""

__all__ = ["LAUNCHED"]

LAUNCHED = "HPCPAR_LAUNCH"  # the variable that tells ranks who starts them
