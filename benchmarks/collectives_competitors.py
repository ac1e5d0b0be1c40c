"""Who takes part in benchmarks/collectives.py, and how each is started."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common import MPICH_PYTHON, PEERS, ROOT, has, mpirun

__all__ = ["OPERATIONS", "Competitor", "one_node", "two_nodes"]

ALLREDUCE = ("allreduce", "allreduce in place")
OPERATIONS = (*ALLREDUCE, "bcast", "reduce", "reduce_scatter", "allgather", "alltoall", "sendrecv")
FORCED = {
    1: "linear",
    2: "reduce and bcast",
    3: "recursive doubling",
    4: "ring",
    5: "segmented ring",
    6: "Rabenseifner",
}  # values of coll_tuned_allreduce_algorithm
NO_HAN = {"OMPI_MCA_coll": "^han"}  # the component that would decide before `tuned`
PAUSE = 0.05  # seconds in which the token buckets of two_nodes.sh fill up again


@dataclass(frozen=True)
class Competitor:
    """One line of the tables: a program that prints a JSON line for each case."""

    name: str
    program: Path
    arguments: tuple[str, ...] = ()
    operations: tuple[str, ...] = OPERATIONS
    env: tuple[tuple[str, str], ...] = ()
    python: Path = Path(sys.executable)
    mpi: bool = False  # whether it may be the best MPI
    ranks: int | None = None  # so many, whatever is asked for
    calls: int | None = None

    @property
    def peer(self) -> bool:
        """Whether it is somebody else's, so that we can go on without it."""
        return not self.name.startswith(("hpcpar", "limit"))

    def command(
        self, ranks: int, operations: Sequence[str], sizes: Sequence[int], dtype: str, nodes: int
    ) -> list[object]:
        """The command line of a launch."""
        ranks = self.ranks or ranks
        work = [self.program, *self.arguments, "--operations", *operations]
        work += ["--sizes", *sizes, "--dtype", dtype]
        if self.calls:
            work += ["--calls", self.calls]
        if nodes == 1:
            return mpirun(ranks, *work, python=self.python)
        two = ROOT / "benchmarks" / "two_nodes.sh"
        return [two, "-n", ranks, self.python, *work, "--pause", PAUSE]


def one_node(device: str, short: bool) -> tuple[list[Competitor], list[str]]:
    """The competitors on one node, and a word for each that cannot take part."""
    left_out: list[str] = []
    ours, mpi = PEERS / "hpcpar_collectives.py", PEERS / "mpi_collectives.py"
    on = ("--device", device)
    found = [
        Competitor("hpcpar", ours, on),
        Competitor("hpcpar, symmetric", ours, (*on, "--symmetric"), ALLREDUCE[1:]),
    ]
    for algorithm in ("ring",) if short else ("ring", "halving", "direct"):
        forced = (*on, "--algorithm", algorithm)
        found.append(Competitor(f"hpcpar, {algorithm}", ours, forced, ALLREDUCE))
    if device == "cpu":
        found.append(Competitor("limit", mpi, operations=("copy", "copy in place")))
        found.append(Competitor("Open MPI", mpi, mpi=True))
        for number, name in list(FORCED.items())[:: 3 if short else 1]:
            env = NO_HAN | {
                "OMPI_MCA_coll_tuned_use_dynamic_rules": "1",
                "OMPI_MCA_coll_tuned_allreduce_algorithm": str(number),
            }
            found.append(
                Competitor(f"Open MPI, {name}", mpi, (), ALLREDUCE, tuple(env.items()), mpi=True)
            )
        if MPICH_PYTHON.exists():
            found.append(Competitor("MPICH", mpi, python=MPICH_PYTHON, mpi=True))
        else:
            left_out.append("MPICH: there is no .venv-mpich (make mpich makes it)")
    backend = "gloo" if device == "cpu" else "nccl"
    if has("torch"):
        operations = ("allreduce in place", "bcast", "allgather")
        over = ("--backend", backend)
        found.append(Competitor(backend, PEERS / "torch_collectives.py", over, operations))
    else:
        left_out.append(f"{backend}: PyTorch is not installed (pip install 'hpcpar[peers]')")
    return found, left_out


def two_nodes(short: bool) -> tuple[list[Competitor], list[str]]:
    """The competitors over the link of two_nodes.sh. The limit is a raw socket."""
    ours, mpi = PEERS / "hpcpar_collectives.py", PEERS / "mpi_collectives.py"
    both, calls = ("allreduce", "bcast"), 1 if short else 5
    socket = ROOT / "benchmarks" / "sockets.py"
    found = [
        Competitor("limit", socket, operations=both, ranks=2, calls=calls),
        Competitor("hpcpar", ours, operations=both, calls=calls),
    ]
    for algorithm in () if short else ("ring", "direct", "halving", "hierarchical"):
        forced = ("--algorithm", algorithm)
        found.append(Competitor(f"hpcpar, {algorithm}", ours, forced, both[:1], calls=calls))
    for algorithm in () if short else ("tree", "chain"):
        forced = ("--algorithm", algorithm)
        found.append(Competitor(f"hpcpar, {algorithm}", ours, forced, both[1:], calls=calls))
    # With more ranks than cores, MPI's waiting takes the core from who is waited for: one call is
    # long enough.
    patient = (("OMPI_MCA_mpi_yield_when_idle", "1"),)
    kinds = {"": (), ", without han": tuple(NO_HAN.items()), ", yielding": patient}
    for name, env in list(kinds.items())[1 if short else 0 :]:
        found.append(Competitor(f"Open MPI{name}", mpi, (), both, env, mpi=True, calls=1))
    return found, []
