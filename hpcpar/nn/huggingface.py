"""The folder format of Hugging Face's GPT-2: config.json and model.safetensors.

Names and shapes are those of `transformers.GPT2LMHeadModel`; our GPT uses the same, so reading and
writing is copying.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hpcpar.errors import UserError

__all__ = ["load_weights", "read_sizes", "read_weights", "write_model"]

_SIZES = {"layers": "n_layer", "heads": "n_head", "width": "n_embd", "context": "n_positions",
          "vocabulary": "vocab_size"}  # fmt: skip
_FIXED = {"model_type": "gpt2", "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
          "tie_word_embeddings": True, "n_inner": None, "scale_attn_weights": True,
          "scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False}  # fmt: skip


def read_sizes(folder: str | Path) -> dict[str, int]:
    """layers, heads, width, context and vocabulary of the model in `folder`.

    Raises `UserError` when the folder holds no GPT-2, or a variant of it that is another function.
    """
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} is not the configuration of a model")
    for key, value in _FIXED.items():
        found = config.get(key, value)
        inner = key == "n_inner" and found == 4 * config.get("n_embd", 0)
        if found != value and not inner:
            raise UserError(f"{path}: {key} is {found!r}; this package's GPT has {value!r}")
    for key in _SIZES.values():
        if type(config.get(key)) is not int or config[key] < 1:
            raise UserError(f"{path}: {key} is missing or no whole number above 0")
    return {ours: config[theirs] for ours, theirs in _SIZES.items()}


def read_weights(folder: str | Path) -> dict[str, np.ndarray]:
    """Every parameter by name, as float32.

    Raises `UserError` when model.safetensors is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(folder) / "model.safetensors"
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    weights = {}
    for name, tensor in tensors.items():
        if name.endswith((".attn.bias", ".attn.masked_bias")) or name == "lm_head.weight":
            continue  # the causal mask, and the tied head: no parameters of their own
        full = name if name.startswith("transformer.") else f"transformer.{name}"
        weights[full] = tensor.astype(np.float32, copy=False)
    return weights


def load_weights(
    folder: str | Path, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """The weights in `folder`; raises `UserError` unless they are of these names and shapes."""
    weights = read_weights(folder)
    for name, array in weights.items():
        if shapes.get(name) != array.shape:
            have = list(shapes[name]) if name in shapes else "no such parameter"
            raise UserError(f"{folder}: {name} is {list(array.shape)}; the model has {have}")
    for name in shapes:
        if name not in weights:
            raise UserError(f"{folder}: {name} is missing")
    return weights


def write_model(
    folder: str | Path, weights: Mapping[str, np.ndarray], sizes: Mapping[str, int]
) -> None:
    """Write the folder that `GPT2LMHeadModel.from_pretrained` loads."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    config: dict[str, Any] = {"architectures": ["GPT2LMHeadModel"], **_FIXED}
    config |= {theirs: sizes[ours] for ours, theirs in _SIZES.items()}
    config |= {"n_ctx": sizes["context"], "torch_dtype": "float32"}
    config |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config |= {"bos_token_id": None, "eos_token_id": None}
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        save_file(dict(weights), target / "model.safetensors", metadata={"format": "pt"})
        (target / "model.safetensors").chmod(0o644)
        (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{target} cannot be written: {error}") from None
