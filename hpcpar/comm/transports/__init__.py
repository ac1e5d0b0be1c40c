"""How bytes travel: host arrays as they lie (`mpi`); GPU arrays through pinned memory (`staged`),
by an MPI that knows of GPUs (`direct`), by NCCL (`nccl`), or read where they lie (`cuda_ipc`)."""
