"""The flight recorder and the watchdog: a hang ends, and names its rank.

- `recorder`: what a process is doing, in a small mapped file that outlives it (`layout`).
- `watcher`: one helper process a node looks at these files from outside. When a call does not end
  in its communicator's timeout and nobody has raised an error, it prints one sentence and one
  table for the whole job, and ends all ranks with exit status 3, even where C code holds the GIL.
- `verdict`, `table`: the sentence and the table, from a row a rank (`rows`); also for what a
  dead run has left (`reading`).

>>> flight = open_flight(mpi_comm, timeout=60)
>>> entry = flight.recorder.begin(flight.collective, operation, number, size, root, site)
"""

from hpcpar.comm.flight.flight import Flight
from hpcpar.comm.flight.opening import end_all, leave, open_flight
from hpcpar.comm.flight.reading import read_flight, read_snapshots
from hpcpar.comm.flight.recorder import Recorder
from hpcpar.comm.flight.table import table
from hpcpar.comm.flight.verdict import verdict
from hpcpar.comm.flight.watch import Told

__all__ = [
    "Flight",
    "Recorder",
    "Told",
    "end_all",
    "leave",
    "open_flight",
    "read_flight",
    "read_snapshots",
    "table",
    "verdict",
]
