"""How bytes travel: `mpi` from host arrays as they lie, `staged` from GPU arrays by the host."""
