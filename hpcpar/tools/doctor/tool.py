"""python -m hpcpar doctor [--flight FOLDER] [--json PATH]"""

import json as json_format
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import hpcpar
from hpcpar.comm import agree, together
from hpcpar.comm.measure import measure_links
from hpcpar.device import Device
from hpcpar.errors import UserError
from hpcpar.files import write_whole
from hpcpar.fingerprint import fingerprint
from hpcpar.threads import rank_threads
from hpcpar.tools.doctor.checks import examine
from hpcpar.tools.doctor.facts import rank_facts, versions
from hpcpar.tools.doctor.finding import KINDS
from hpcpar.tools.doctor.flight import read_run
from hpcpar.tools.doctor.library import library_facts
from hpcpar.tools.doctor.show import show

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["doctor"]

UNFIT = 1  # exit status


def doctor(flight: str = "", json: str = "", *, comm: "Communicator") -> None:
    """What this machine is: MPI, nodes, ranks, links; what is wrong with it, and how to mend it.

    Exit status 1 if it is unfit: results would be wrong, or calls would fail.

    Args:
        flight: A folder of flight recorders: tell what that run was doing when it ended, instead.
        json: A file to write the same into, for machines.
    """
    if flight:
        with together(comm):
            if comm.rank == 0:
                text, told = read_run(flight)
                print(text)
                _write(json, told)
        return
    report = _look(comm)
    findings = examine(report)
    with together(comm):
        if comm.rank == 0:
            show(report, findings)
            kinds = {finding.kind for finding in findings}
            verdict = next((kind for kind in KINDS[:2] if kind in kinds), "well")
            about = {"hpcpar": hpcpar.__version__, "written": time.strftime("%Y-%m-%d %H:%M:%S")}
            told = about | {"verdict": verdict, "findings": [asdict(f) for f in findings]} | report
            _write(json, told)
    if any(finding.kind == "unfit" for finding in findings):
        sys.exit(UNFIT)


def _look(comm: "Communicator") -> dict[str, Any]:
    """What all ranks see, as JSON can hold it, on every rank."""
    with together(comm):
        device = Device.resolve("auto", comm.local_rank)
        library = library_facts(device if comm.rank == 0 else Device())
        packages, bits = versions(), fingerprint(device, rank_threads())
        mine = rank_facts(comm, device)
        mine["compared"] = {"mpi": library["library"]} | packages | bits
    problem = ""
    try:
        comm.symmetric((1024,), np.float32)
    except MemoryError as error:
        problem = str(error)
    return {
        "library": library,
        "versions": packages,
        "fingerprint": bits,
        "symmetric": problem,
        "ranks": [json_format.loads(text or "{}") for text in agree(comm, json_format.dumps(mine))],
        "links": measure_links(comm).to_dict(),
    }


def _write(path: str, told: dict[str, Any]) -> None:
    if not path:
        return
    try:
        write_whole(Path(path), json_format.dumps(told, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"--json {path} cannot be written: {error.strerror}") from None
