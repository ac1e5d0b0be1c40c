"""What was computed again, beside what the run has left of it."""

import json
from collections.abc import Mapping, Sequence

import numpy as np

from hpcpar import checkpoint
from hpcpar.fingerprint import weights_sha256
from hpcpar.run.folder import RunFolder

__all__ = ["Curve", "compare"]

Curve = dict[int, dict[str, float]]  # by step: loss and gradient_norm
Tensors = Mapping[str, np.ndarray]
MOST = 8  # tensors that are named


def compare(
    folder: RunFolder, step: int, curve: Curve, weights: Tensors, state: Mapping[str, Tensors]
) -> bool:
    """Print what is the same and what is not; whether something differs.

    Bits are compared, so a number that is none is the same as itself. Raises `UserError` where the
    checkpoint is damaged.
    """
    told = [_steps(folder, curve)]
    for place in checkpoint.list_checkpoints(folder.checkpoints):
        if int(place.name.rpartition("-")[2]) == step:
            saved = checkpoint.load(place)
            mine, theirs = _flat(weights, state), _flat(saved.model, saved.optimizer)
            names = [n for n in sorted(mine | theirs) if not _same(mine.get(n), theirs.get(n))]
            told.append(_verdict(f"checkpoint {place.name}, {len(mine)} tensors", names))
    final = _summary(folder)
    if final.get("steps") == step:
        same = final.get("weights_sha256") == weights_sha256(weights)
        told.append(_verdict("the weights' hash in summary.json", [] if same else ["weights"]))
    elif len(told) == 1:
        print(f"nothing is left of the run's weights after step {step}: they cannot be compared")
    return any(told)


def _steps(folder: RunFolder, curve: Curve) -> bool:
    """The lines of metrics.jsonl."""
    rows = {row["step"]: row for row in folder.metrics() if row["step"] in curve}
    if not rows:
        print("metrics.jsonl has none of these steps: losses cannot be compared")
        return False
    names = [
        f"{name} of step {step} ({value!r}, the run's is {rows[step].get(name)!r})"
        for step, values in curve.items()
        for name, value in values.items()
        if step in rows and repr(value) != repr(rows[step].get(name))
    ]
    return _verdict(f"losses and gradient norms of {len(rows)} steps", names[:1])


def _verdict(what: str, different: Sequence[str]) -> bool:
    named = ", ".join(different[:MOST])
    more = f" and {len(different) - MOST} more" if len(different) > MOST else ""
    print(f"{what}: {f'DIFFERENT: {named}{more}' if different else 'the same'}")
    return bool(different)


def _flat(weights: Tensors, state: Mapping[str, Tensors]) -> dict[str, np.ndarray]:
    pairs = {f"{kind}/{name}": x for kind, found in state.items() for name, x in found.items()}
    return dict(weights) | pairs


def _same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is not None and other is not None and one.tobytes() == other.tobytes()


def _summary(folder: RunFolder) -> dict[str, object]:
    try:
        found = json.loads((folder.path / "summary.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
