"""The hash of the weights after 20 steps, on many layouts of ranks: one for each promise.

    python benchmarks/hashes.py                # writes docs/hashes.md; takes some minutes
    python benchmarks/hashes.py --short        # a few layouts and steps, nothing is written

A GPT of 6 layers is trained for 20 steps. Exits with status 1 where a promise is broken.
"""

import argparse
import re
import sys
import tempfile
from pathlib import Path

from common import ROOT, launch, mpirun, provenance

TEXT = "docs/architecture.md"
MODEL: dict[str, object] = {
    "data.paths": ROOT / TEXT, "model.layers": 6, "model.heads": 4, "model.width": 64,
    "model.context": 64, "batch.size": 16, "batch.micro": 1, "batch.leaves": 8, "steps": 20,
    "run.evaluate_samples": 16, "optim.warmup": 5, "seed": 7,
}  # fmt: skip
SMALL = {"model.layers": 2, "model.width": 32, "steps": 3, "run.evaluate_samples": 2}  # --short
Layout = tuple[str, int, dict[str, object]]  # promise, ranks, keys of --parallel

LAYOUTS: list[Layout] = [
    ("ranks", 1, {}),
    ("ranks", 1, {"recompute": "true"}),
    ("ranks", 2, {"zero": 0}),
    ("ranks", 3, {"zero": 1}),
    ("ranks", 4, {"zero": 2}),
    ("ranks", 5, {"zero": 3}),
    ("ranks", 2, {"pipeline": 2, "schedule": "gpipe"}),
    ("ranks", 4, {"pipeline": 4, "schedule": "1f1b", "recompute": "true"}),
    ("ranks", 4, {"pipeline": 2, "schedule": "interleaved", "zero": 3}),
    ("ranks", 6, {"pipeline": 3, "schedule": "zero-bubble", "zero": 2}),
    ("ranks", 7, {"pipeline": 7, "schedule": "zero-bubble"}),
    ("ranks", 8, {"pipeline": 4, "schedule": "interleaved", "zero": 1}),
    ("ranks", 8, {"pipeline": 2, "zero": 3, "recompute": "true"}),
    ("layout", 1, {}),
    ("layout", 2, {"tensor": 2}),
    ("layout", 3, {"zero": 2}),
    ("layout", 4, {"tensor": 4, "sequence": "true"}),
    ("layout", 4, {"tensor": 2, "pipeline": 2, "schedule": "zero-bubble"}),
    ("layout", 6, {"tensor": 2, "pipeline": 3, "schedule": "gpipe", "recompute": "true"}),
    ("layout", 8, {"tensor": 4, "pipeline": 2, "sequence": "true"}),
    ("layout", 8, {"tensor": 2, "pipeline": 2, "schedule": "interleaved", "zero": 3}),
    ("layout", 2, {"context": 2}),
    ("layout", 4, {"context": 4, "recompute": "true"}),
    ("layout", 4, {"context": 2, "pipeline": 2, "schedule": "zero-bubble"}),
    ("layout", 8, {"context": 2, "tensor": 2, "sequence": "true", "zero": 3}),
    ("layout", 8, {"context": 4, "pipeline": 2, "schedule": "gpipe"}),
]
SHORT = (0, 6, 13, 14, 21)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a few layouts and steps, no file")
    options = parser.parse_args()
    model = MODEL | (SMALL if options.short else {})
    rows = [(layout, train(layout, model)) for layout in chosen(options.short)]
    lines = [
        f"| {promise} | {ranks} | {words(keys)} | `{sha256[:16]}` |"
        for (promise, ranks, keys), sha256 in rows
    ]
    print("\n".join(lines))
    seen = {
        promise: {sha256 for (kept, *_), sha256 in rows if kept == promise}
        for promise in ("ranks", "layout")
    }
    broken = [promise for promise, hashes in seen.items() if len(hashes) > 1]
    for promise in broken:
        print(f"--reproducible {promise} is broken: {len(seen[promise])} hashes")
    if not options.short and not broken:
        write(lines)
    return int(bool(broken))


def chosen(short: bool) -> list[Layout]:
    return [LAYOUTS[i] for i in SHORT] if short else LAYOUTS


def train(layout: Layout, model: dict[str, object]) -> str:
    """The hash that a run prints."""
    promise, ranks, keys = layout
    with tempfile.TemporaryDirectory() as folder:
        values = {**model, **{f"parallel.{key}": value for key, value in keys.items()}}
        values |= {"reproducible": promise, "run.dir": Path(folder) / "run"}
        flags = [word for key, value in values.items() for word in (f"--{key}", value)]
        told = launch(mpirun(ranks, "-m", "hpcpar.train", *flags), 200)
    found = re.search(r"weights sha256 ([0-9a-f]{64})", told)
    assert found is not None, told
    return found[1]


def words(keys: dict[str, object]) -> str:
    """A layout in words."""
    return ", ".join(f"{key} {value}".removesuffix(" true") for key, value in keys.items()) or "-"


def write(lines: list[str]) -> None:
    """docs/hashes.md."""
    where = provenance()
    head = [
        "# One hash",
        "",
        "The hash of all weights after 20 steps of a GPT of 6 layers, on layouts of 1 to 8 ranks:",
        "one for each promise. Data-parallel ranks are those that the other axes leave; zero is 1",
        "and the schedule 1f1b where nothing else is said.",
        "",
        f"`python benchmarks/hashes.py`, {where['machine']['processor']},",
        f"commit {where['commit']}.",
        "On a machine with another fingerprint the hashes are others, and one again.",
        "",
        "| reproducible | ranks | layout | weights sha256 |",
        "|---|---|---|---|",
    ]  # fmt: skip
    (ROOT / "docs" / "hashes.md").write_text("\n".join([*head, *lines, ""]))


if __name__ == "__main__":
    sys.exit(main())
