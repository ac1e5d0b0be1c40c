"""From what the ranks saw to what is wrong, and how to mend it.

Every check is a function of the report alone, which holds what all ranks saw.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from hpcpar.comm.flight.words import rank_names, size_text
from hpcpar.fingerprint import differences
from hpcpar.tools.doctor.finding import (
    KINDS,
    Finding,
    Report,
    many,
    named,
    nodes,
    threads,
    usable,
)

__all__ = ["examine"]

SMALL_SHM = 1 << 30
SMALL_MEMORY = 1 << 29  # for a rank
SLOW_MESSAGE = 12e-6  # seconds: no adapter of InfiniBand's kind takes so long, TCP does


def examine(report: Report) -> list[Finding]:
    """All findings, the worst first."""
    found = [finding for check in CHECKS for finding in check(report)]
    return sorted(found, key=lambda finding: KINDS.index(finding.kind))


def other_bits(report: Report) -> Iterator[Finding]:
    ranks_of: dict[str, list[int]] = defaultdict(list)
    for facts in report["ranks"]:
        found = differences(report["ranks"][0]["compared"], facts["compared"])
        if found:
            ranks_of["; ".join(found)].append(facts["rank"])
    for difference, ranks in ranks_of.items():
        differ = "differs" if len(ranks) == 1 else "differ"
        yield Finding(
            "unfit",
            f"{rank_names(ranks)} {differ} from rank 0 in {difference}: results would depend on "
            "which rank computes what",
            "use the same modules, the same environment and the same kind of processor everywhere",
        )


def shared_memory(report: Report) -> Iterator[Finding]:
    if report["symmetric"]:
        yield Finding(
            "unfit", f"ranks of a node cannot share memory ({report['symmetric']})",
            "run all ranks of a node as one user in one container, so that they see each other in "
            "/proc, and leave memory for them",
        )  # fmt: skip


def host_names(report: Report) -> Iterator[Finding]:
    machines: dict[str, set[str]] = defaultdict(set)
    homes: dict[str, set[int]] = defaultdict(set)
    for facts in report["ranks"]:
        if facts["machine"]:
            machines[facts["host"]].add(facts["machine"])
            homes[facts["machine"]].add(facts["node"])
    for host, found in machines.items():
        if len(found) > 1:
            yield Finding(
                "unfit",
                f"{len(found)} machines call themselves {host}, and MPI takes them for one",
                "give each machine a name of its own",
            )
    split = sum(len(found) for found in homes.values() if len(found) > 1)
    if split:
        yield Finding(
            "poor", f"{split} of the nodes are parts of the same machine, and share no memory",
            "give the containers of one machine the same host name, unless this is meant",
        )  # fmt: skip


def crowded(report: Report) -> Iterator[Finding]:
    cases: dict[tuple[int, int], list[str]] = defaultdict(list)
    for ranks in nodes(report).values():
        bound = all(len(facts["cores"]) == 1 for facts in ranks)
        if bound and len(ranks) <= ranks[0]["machine_cores"]:
            continue  # there are cores enough: see `same_core`
        if len(ranks) > usable(ranks):
            cases[len(ranks), usable(ranks)].append(ranks[0]["host"])
    for (count, cores), hosts in cases.items():
        yield Finding(
            "poor", f"{count} ranks take turns on {many(cores, 'core')} ({named(hosts)})",
            f"start at most {many(cores, 'rank')} a node",
        )  # fmt: skip


def toomany_threads(report: Report) -> Iterator[Finding]:
    cases: dict[tuple[int, int, int], list[str]] = defaultdict(list)
    for ranks in nodes(report).values():
        most = max(map(threads, ranks))
        if most > 1 and sum(map(threads, ranks)) > usable(ranks):
            cases[len(ranks), most, usable(ranks)].append(ranks[0]["host"])
    for (count, most, cores), hosts in cases.items():
        yield Finding(
            "poor",
            f"{many(count, 'rank')} of up to {most} BLAS threads share {many(cores, 'core')} "
            f"({named(hosts)})",
            f"set OMP_NUM_THREADS={max(1, cores // count)}",
        )


def same_core(report: Report) -> Iterator[Finding]:
    for ranks in nodes(report).values():
        bound: dict[int, list[int]] = defaultdict(list)
        for facts in ranks:
            if len(facts["cores"]) == 1 and facts["machine_cores"] > 1:
                bound[facts["cores"][0]].append(facts["rank"])
        clashes = {core: sharing for core, sharing in bound.items() if len(sharing) > 1}
        if clashes:
            core, sharing = min(clashes.items())
            more = f", and {len(clashes) - 1} cores more are shared" if len(clashes) > 1 else ""
            yield Finding(
                "poor",
                f"{rank_names(sharing)} are bound to the same core {core} "
                f"({ranks[0]['host']}){more}",
                "bind each rank to a core of its own, or none: mpirun --bind-to none, "
                "srun --cpu-bind=none",
            )


def container_limit(report: Report) -> Iterator[Finding]:
    cases: dict[tuple[float, int], list[str]] = defaultdict(list)
    for ranks in nodes(report).values():
        limits = [facts["quota"] for facts in ranks if facts["quota"]]
        cores = len({core for facts in ranks for core in facts["cores"]})
        if limits and min(limits) < min(cores, sum(map(threads, ranks))):
            cases[min(limits), cores].append(ranks[0]["host"])
    for (limit, cores), hosts in cases.items():
        yield Finding(
            "poor",
            f"the container may use {limit:g} cores' time and shows {cores} ({named(hosts)}): "
            "ranks will be paused in the middle of calls",
            "raise its limit (cpu.max of the cgroup, docker run --cpus), or start fewer ranks",
        )


def thread_level(report: Report) -> Iterator[Finding]:
    level = report["library"]["threads"]
    if level != "multiple":
        yield Finding(
            "poor", f"MPI runs with thread level {level}, so there is no progress thread",
            "take an MPI library built for MPI_THREAD_MULTIPLE, and leave mpi4py.rc.thread_level",
        )  # fmt: skip


def gpu_masks(report: Report) -> Iterator[Finding]:
    hosts, shared = [], []
    for ranks in nodes(report).values():
        gpus = [facts["gpu"] for facts in ranks if facts["gpu"]]
        buses = {gpu["bus"] for gpu in gpus}
        if len(gpus) > 1 and len(buses) > 1 and all(gpu["visible"] == 1 for gpu in gpus):
            hosts.append(ranks[0]["host"])
        if len(gpus) > len(buses):
            shared.append(ranks[0]["host"])
    if hosts:
        yield Finding(
            "poor", f"each rank sees only its own GPU, which forbids CUDA IPC ({named(hosts)})",
            "let every rank see all GPUs of its node: srun --gpus-per-node=N --gpu-bind=none "
            "in place of --gpus-per-task",
        )  # fmt: skip
    if shared:
        yield Finding(
            "poor", f"several ranks share a GPU ({named(shared)})",
            "start as many ranks a node as it has GPUs",
        )  # fmt: skip


def host_only(report: Report) -> Iterator[Finding]:
    far = len(nodes(report)) > 1 and any(facts["gpu"] for facts in report["ranks"])
    if far and report["library"]["cuda-aware"].startswith("no"):
        yield Finding(
            "note", "MPI takes no GPU memory: between nodes it goes through the host's",
            "take an MPI library built with CUDA, or NCCL, where there is one",
        )  # fmt: skip


def unused_gpus(report: Report) -> Iterator[Finding]:
    hosts = [
        ranks[0]["host"]
        for ranks in nodes(report).values()
        if ranks[0]["gpus_of_machine"] and not any(facts["gpu"] for facts in ranks)
    ]
    if hosts:
        yield Finding(
            "note", f"there are GPUs that hpcpar cannot use ({named(hosts)})",
            "install CuPy: pip install 'hpcpar[cuda12]' or 'hpcpar[cuda13]'",
        )  # fmt: skip


def slow_network(report: Report) -> Iterator[Finding]:
    links = report["links"]
    between = [pair for pair in links["pairs"] if pair["kind"] == "between"]
    adapters = [name for facts in report["ranks"] for name in facts["adapters"]]
    latencies = [pair["link"]["latency"] for pair in between]
    if adapters and latencies and min(latencies) > SLOW_MESSAGE:
        yield Finding(
            "poor",
            f"a message between nodes takes {min(latencies) * 1e6:.0f} us though there are fast "
            f"adapters ({', '.join(sorted(set(adapters)))}): MPI seems to speak TCP",
            "take an MPI library built with UCX or libfabric for this network",
        )
    speeds = sorted((pair["link"]["bandwidth"], pair["ranks"]) for pair in between)
    if len(speeds) > 1 and speeds[0][0] < speeds[-1][0] / 2:
        yield Finding(
            "poor",
            f"between {rank_names(speeds[0][1])} there are {speeds[0][0] / 1e9:.2g} GB/s, between "
            f"{rank_names(speeds[-1][1])} {speeds[-1][0] / 1e9:.2g}",
            "look at cables and at what else runs there, or leave that node out",
        )


def recorders(report: Report) -> Iterator[Finding]:
    cases: dict[tuple[str, str], list[str]] = defaultdict(list)
    for ranks in nodes(report).values():
        if ranks[0]["temp_problem"]:
            cases[ranks[0]["temp"], ranks[0]["temp_problem"]].append(ranks[0]["host"])
    for (folder, problem), hosts in cases.items():
        yield Finding(
            "poor",
            f"{folder} cannot be written ({problem}; {named(hosts)}), so a dead run leaves no "
            "flight recorders",
            "set TMPDIR to a folder of the node's own that can",
        )


def little_memory(report: Report) -> Iterator[Finding]:
    cases: dict[int, list[str]] = defaultdict(list)
    for ranks in nodes(report).values():
        if ranks[0]["memory"] is not None and ranks[0]["memory"] < SMALL_MEMORY * len(ranks):
            cases[len(ranks)].append(f"{ranks[0]['host']}: {size_text(ranks[0]['memory'])}")
    for count, hosts in cases.items():
        yield Finding(
            "poor", f"little memory is left for {many(count, 'rank')} ({named(hosts)})",
            "see what else runs there, or start fewer ranks a node",
        )  # fmt: skip


def small_shm(report: Report) -> Iterator[Finding]:
    hosts, sizes = [], []
    for ranks in nodes(report).values():
        if ranks[0]["shm"] is not None and ranks[0]["shm"] < SMALL_SHM:
            hosts.append(ranks[0]["host"])
            sizes.append(ranks[0]["shm"])
    if hosts:
        yield Finding(
            "note",
            f"/dev/shm has {size_text(min(sizes))} ({named(hosts)}): hpcpar does without, but MPI, "
            "NCCL and PyTorch's data loaders may end with SIGBUS there",
            "give the container more, e.g. docker run --shm-size=8g",
        )


CHECKS: tuple[Callable[[Report], Iterable[Finding]], ...] = (
    other_bits, shared_memory, host_names, crowded, toomany_threads, same_core, container_limit,
    thread_level, gpu_masks, host_only, slow_network, recorders, little_memory, unused_gpus,
    small_shm,
)  # fmt: skip
