"""Wrong programs, by what is wrong with them, and what has to be said of each.

The classes are those of MPI-BugBench (Jammer et al. 2024, "MPI-BugBench: a framework for assessing
MPI correctness tools"): operation, dtype, count, root, order, missing call; and bad arguments. Each
program is a function of a communicator with check=True, on so many ranks as `wrong` says.
"""

from programs.wrong import arguments, count, dtype, hung, missing, operation, order, root
from programs.wrong.program import Program, named

__all__ = ["PROGRAMS", "Program"]

PROGRAMS: dict[str, Program] = {
    f"{module.__name__.rpartition('.')[2]}.{name}": program
    for module in (operation, dtype, count, root, order, missing, arguments, hung)
    for name, program in named(module).items()
}
