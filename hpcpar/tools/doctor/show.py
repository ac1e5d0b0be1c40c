"""The doctor's tables, for people."""

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from hpcpar.comm.flight.layout import ranges_text
from hpcpar.comm.flight.words import size_text
from hpcpar.tools.doctor.finding import Finding, nodes, threads

__all__ = ["show"]

SHOWN = 24  # rows of a table; the JSON file has them all
WIDTH = 100  # characters, where the output is no terminal

Rows = list[tuple[str, ...]]


def show(report: Mapping[str, Any], findings: Sequence[Finding]) -> None:
    """Print the tables, and then what is wrong."""
    from rich.console import Console
    from rich.table import Table

    # mpirun gives its ranks a terminal also where its own output goes to a file: no colours.
    width = shutil.get_terminal_size((WIDTH, 0)).columns
    console = Console(force_terminal=False, width=width, highlight=False, markup=False)

    def table(title: str, names: Sequence[str], rows: Rows) -> None:
        made = Table(*names, box=None, pad_edge=False)
        for row in rows[:SHOWN]:
            made.add_row(*row)
        console.print(title.upper())
        console.print(made)
        if len(rows) > SHOWN:
            console.print(f"... and {len(rows) - SHOWN} more (--json PATH has all)")
        console.print()

    facts = report["library"] | report["versions"] | {"fingerprint": _pairs(report["fingerprint"])}
    table("MPI and versions", ("what", "value"), list(facts.items()))
    table("Nodes", *_node_rows(report))
    table("Ranks", *_rank_rows(report))
    table("Links", *_link_rows(report))
    for finding in findings:
        console.print(f"{finding.kind}: {finding.text}. Mend it: {finding.remedy}.")
    if not findings:
        console.print("all is well")


def _node_rows(report: Mapping[str, Any]) -> tuple[tuple[str, ...], Rows]:
    names = ("node", "host", "ranks", "cores", "processor", "free memory", "/dev/shm", "GPUs")
    rows: Rows = []
    for node, ranks in sorted(nodes(report).items()):
        first = ranks[0]
        cores = str(first["machine_cores"])
        if first["quota"]:
            cores += f" ({first['quota']:g} allowed)"
        memory, shm = (
            "?" if first[name] is None else size_text(first[name]) for name in ("memory", "shm")
        )
        own = ranges_text([facts["rank"] for facts in ranks])
        gpus = str(first["gpus_of_machine"])
        rows.append((str(node), first["host"], own, cores, first["processor"], memory, shm, gpus))
    return names, rows


def _rank_rows(report: Mapping[str, Any]) -> tuple[tuple[str, ...], Rows]:
    names = ("rank", "node", "process", "may run on cores", "BLAS threads", "GPU")
    rows: Rows = []
    for facts in report["ranks"]:
        gpu = facts["gpu"]
        rows.append(
            (
                str(facts["rank"]),
                str(facts["node"]),
                str(facts["pid"]),
                ranges_text(facts["cores"]),
                str(threads(facts)),
                f"{gpu['name']} {gpu['bus']}, sees {gpu['visible']}" if gpu else "none",
            )
        )
    return names, rows


def _link_rows(report: Mapping[str, Any]) -> tuple[tuple[str, ...], Rows]:
    links = report["links"]
    words = {"inside": "inside a node", "between": "between nodes"}
    rows: Rows = [
        (
            "ranks {} and {}".format(*pair["ranks"]),
            words[pair["kind"]],
            f"{pair['link']['latency'] * 1e6:.1f} us",
            f"{pair['link']['bandwidth'] / 1e9:.2f} GB/s",
        )
        for pair in links["pairs"]
    ]
    for name, what in (("copy", "copies"), ("combine", "additions of float32, by result")):
        rows.append(("memory", what, "", f"{1e-9 / links[name]:.2f} GB/s"))
    return ("between", "kind", "small message", "large messages"), rows


def _pairs(facts: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())
