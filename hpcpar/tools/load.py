"""Open a trained GPT: the folder of a run, or a Hugging Face GPT-2 folder."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcpar import checkpoint
from hpcpar.entry import note
from hpcpar.errors import UserError
from hpcpar.nn import Model, gpt
from hpcpar.nn.huggingface import read_sizes, read_weights
from hpcpar.run.folder import read_config

__all__ = ["Trained", "load_gpt"]

SIZES = ("layers", "heads", "width", "context", "vocabulary")


@dataclass
class Trained:
    """A GPT with its weights on the host."""

    model: Model
    weights: dict[str, np.ndarray]  # without second names of tied tensors
    sizes: dict[str, int]  # layers, heads, width, context, vocabulary
    reads: str  # "bytes" or "tokens"
    separator: int | None = None  # the token that ends a document, where attention stays within

    @property
    def params(self) -> dict[str, np.ndarray]:
        """The weights under all names that the model uses."""
        tied = {p.name: self.weights[p.tied_to] for p in self.model.parameters if p.tied_to}
        return self.weights | tied


def load_gpt(path: str) -> Trained:
    """Raises `UserError` when there is no GPT in `path`, or when its weights do not fit it."""
    folder, separator = Path(path), None
    if (folder / "config.toml").is_file() or not (folder / "config.json").is_file():
        config = read_config(folder)
        try:
            kind, reads = config["model"]["kind"], config["data"]["kind"]
            sizes = {name: int(config["model"][name]) for name in SIZES}
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{folder / 'config.toml'} is not a run's: {error!r}") from None
        if reads == "tokens" and config["data"].get("documents"):
            separator = config["data"].get("separator")
        if kind != "gpt":
            raise UserError(f"{path} is a run of a {kind} model; this tool takes a GPT")
        saved = checkpoint.load_latest(folder / "checkpoints", note)
        if saved is None:
            raise UserError(f"{path} has no checkpoint yet")
        weights = dict(saved.model)
    else:
        sizes, weights = read_sizes(folder), read_weights(folder)
        reads = "bytes" if sizes["vocabulary"] <= 256 else "tokens"
    if min(sizes.values()) < 1 or sizes["width"] % sizes["heads"]:
        raise UserError(f"{path}: there is no GPT with {sizes}")
    model = gpt(*(sizes[name] for name in SIZES))
    expected = {p.name: p.shape for p in model.parameters if p.tied_to is None}
    for name in sorted(expected.keys() | weights.keys()):
        found = weights[name].shape if name in weights else None
        if found != expected.get(name):
            raise UserError(f"{path}: {name} is {found}, the model's is {expected.get(name)}")
    return Trained(model, weights, sizes, reads, separator)
