"""python -m hpcpar doctor: what this machine is, and what is wrong with it.

- `library`, `facts`: what each rank sees of MPI, of its node and of itself.
- `checks`: pure functions from what all ranks saw to a list of `finding`s.
- `show`: the tables. `flight`: what a dead run has left.
"""

from hpcpar.tools.doctor.tool import doctor

__all__ = ["doctor"]
