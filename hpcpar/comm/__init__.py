"""Communication between ranks: collectives and messages on NumPy and CuPy arrays, over MPI.

>>> comm = hpcpar.Communicator()
>>> total = comm.allreduce(x)            # or: request = comm.iallreduce(x); ...; request.wait()

- **Calls.** Collectives are called by all ranks of the communicator, in the same order, as in MPI.
  Each has an i- form that starts it and returns a `Request`. Several requests may be under way and
  be waited for in any order. A communicator belongs to one thread.
- **Arrays** are C-contiguous NumPy or CuPy arrays, or other libraries' through DLPack, of any
  numeric dtype (bfloat16 too). While a request is under way its arrays must not be changed, and not
  be read where it writes.
- **Along axis 0** collectives split by numpy.array_split's rule and join, so every size works with
  every number of ranks.
- **Bits.** Reductions add in the order of one binary tree over the ranks (`hpcpar.schedule`), the
  same on every rank and in every run; only the algorithms "ring" and "mpi" have their own order.
- **Waits.** Every wait has a limit, `timeout` seconds without progress; then `HangError` says which
  rank waited, in which call, and who did not come and where it is instead. The communicator is not
  usable afterwards. Where nobody catches the error, the job ends with status 3 and one table.
- **Progress** is made inside the calls of this package: `test()` and `wait()` move all requests.
"""

from hpcpar.comm.agree import agree, together
from hpcpar.comm.communicator import Communicator
from hpcpar.comm.compare import compare_ranks
from hpcpar.comm.ending import abort, end_hung, end_process, speaks
from hpcpar.comm.request import Request

__all__ = [
    "Communicator",
    "Request",
    "abort",
    "agree",
    "compare_ranks",
    "end_hung",
    "end_process",
    "speaks",
    "together",
]
