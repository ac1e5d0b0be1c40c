"""A real Slurm of several nodes on one machine, for as long as a `with` block runs.

    with cluster(nodes=3, cpus=4) as slurm:
        print(slurm.run("sinfo").stdout)
        job = slurm.submit("--nodes=2", "job.sh")
        assert slurm.wait(job, timeout=60).status == 0

It takes root, and Debian's slurm-wlm, munge, iproute2 and libpmix-dev (Slurm's PMIx plugin opens
`libpmix.so`, a name that only the -dev package has). Nodes are network namespaces, see
slurm_cluster.sh. Everything lives in namespaces that end with this process: no daemon, bridge or
mount is left behind, not even when the tests are killed.
"""

import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Cluster", "Job", "cluster", "missing"]

SCRIPT = Path(__file__).with_suffix(".sh")
PROGRAMS = ("sbatch", "slurmctld", "slurmd", "munged", "ip", "nsenter", "unshare")
SPACES = ("--mount", "--net", "--uts", "--pid")
UNSHARE = ["unshare", *SPACES, "--fork", "--kill-child", "--mount-proc"]
UNFINISHED = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED")


def missing() -> str | None:
    """Why there can be no cluster here, or None."""
    if os.geteuid() != 0:
        return "a Slurm cluster on one machine takes root"
    absent = [name for name in PROGRAMS if not shutil.which(name, path=_path(os.environ))]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian: slurm-wlm munge iproute2 libpmix-dev)"
    mount = [*UNSHARE, "mount", "-t", "tmpfs", "none", "/run"]
    probe = subprocess.run(mount, check=False, capture_output=True, text=True, timeout=20)
    return f"no namespaces for this root: {probe.stderr.strip()}" if probe.returncode else None


@dataclass(frozen=True)
class Job:
    """A batch job: Slurm's word for how it stands (RUNNING, COMPLETED, ...), its exit status."""

    state: str
    status: int


class Cluster:
    """A running cluster, seen from its login node. Every call has a time limit."""

    def __init__(self, keeper: int) -> None:
        self._keeper = keeper  # process id of `unshare`, which holds the namespaces

    def run(
        self,
        *command: str,
        timeout: float = 30,
        cwd: Path = Path("/"),
        environ: Mapping[str, str] = os.environ,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the login node; raises TimeoutError after `timeout` seconds."""
        names = f"/proc/{self._keeper}/ns"
        enter = ["nsenter", f"--mount={names}/mnt", f"--net={names}/net", f"--uts={names}/uts"]
        enter += [f"--pid={names}/pid_for_children", "env", f"--chdir={cwd}"]
        enter += ["timeout", "--kill-after=5", str(timeout)]
        site = {"SLURM_CONF": "/run/slurm/slurm.conf", "TMPDIR": "/run/local"}
        done = subprocess.run(
            [*enter, *command],
            check=False,
            env={**environ, **site, "PATH": _path(environ)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout + 15,
        )
        if done.returncode in (124, 137):
            raise TimeoutError(f"{command} took over {timeout} s\n{done.stdout}{done.stderr}")
        return done

    def submit(
        self, *arguments: str, cwd: Path = Path("/"), environ: Mapping[str, str] = os.environ
    ) -> int:
        """Hand over a batch job: sbatch's options, the script, its arguments. Returns its number.

        Raises RuntimeError with sbatch's message when it is refused.
        """
        done = self.run("sbatch", "--parsable", *arguments, cwd=cwd, environ=environ)
        if done.returncode:
            raise RuntimeError(f"sbatch refused the job: {done.stderr}")
        return int(done.stdout)

    def state(self, job: int | str) -> Job:
        """How a batch job stands now."""
        shown = self.run("scontrol", "--oneliner", "show", "job", str(job)).stdout
        state, status = re.findall(r" JobState=(\w+) .* ExitCode=(\d+):", shown)[0]
        return Job(state, int(status))

    def wait(self, job: int | str, timeout: float) -> Job:
        """Wait until a batch job has ended; raises TimeoutError after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while (now := self.state(job)).state in UNFINISHED:
            if time.monotonic() > deadline:
                raise TimeoutError(f"job {job} is {now.state} after {timeout} s\n{self.logs()}")
            time.sleep(0.2)
        return now

    def logs(self) -> str:
        """The last lines that each daemon wrote."""
        return self.run("sh", "-c", "tail -n 20 /run/slurm/*.log").stdout


@contextmanager
def cluster(nodes: int = 3, cpus: int = 4, gpus: int = 4) -> Iterator[Cluster]:
    """Bring up Slurm on `nodes` nodes of `cpus` CPUs and `gpus` (1 or more) make-believe GPUs each.

    The nodes are called node0, node1, ... and share this machine's files and CPUs, whatever `cpus`
    says. Raises RuntimeError when they cannot be made, TimeoutError when they are not all idle
    within a minute.
    """
    keeper = subprocess.Popen(
        [*UNSHARE, "bash", str(SCRIPT), str(nodes), str(cpus), str(gpus)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PATH": _path(os.environ)},
    )
    assert keeper.stdin is not None and keeper.stdout is not None
    try:
        said, _, _ = select.select([keeper.stdout], [], [], 60)
        if not said or keeper.stdout.readline() != "up\n":
            raise RuntimeError(f"{SCRIPT.name} could not set up the cluster; see standard error")
        slurm = Cluster(keeper.pid)
        deadline = time.monotonic() + 60
        while slurm.run("sinfo", "--noheader", "--format=%D %t").stdout.strip() != f"{nodes} idle":
            if time.monotonic() > deadline:
                raise TimeoutError(f"the nodes are not idle after a minute\n{slurm.logs()}")
            time.sleep(0.2)
        yield slurm
    finally:
        keeper.stdin.close()  # the script ends, and with it all that it started
        try:
            keeper.wait(10)
        finally:
            keeper.kill()
            keeper.stdout.close()


def _path(environ: Mapping[str, str]) -> str:
    """PATH, with the folders where daemons live."""
    return f"{environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
