"""From a configuration and the data to a model."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from hpcpar.errors import UserError
from hpcpar.nn.gpt import gpt
from hpcpar.nn.linear_model import linear
from hpcpar.nn.mlp import mlp
from hpcpar.nn.model import Model

if TYPE_CHECKING:
    from hpcpar.data import Dataset

__all__ = ["ModelConfig", "build_model", "complete_model"]


@dataclass
class ModelConfig:
    """The model.

    Args:
        kind: gpt reads text or tokens; mlp and linear read tables.
        layers: Transformer blocks of a GPT; hidden layers of an MLP.
        heads: Attention heads of a GPT; they divide the width.
        width: Channels of a GPT; units of an MLP's hidden layers.
        context: Tokens that a GPT sees at once, which is the length of a sample.
        vocabulary: Different tokens; 0 takes the data's.
        init_from: A folder with a Hugging Face GPT-2 (config.json, model.safetensors) to start from.
    """

    kind: Literal["gpt", "mlp", "linear"] = "gpt"
    layers: int = 2
    heads: int = 4
    width: int = 128
    context: int = 128
    vocabulary: int = 0
    init_from: str = ""


def complete_model(config: ModelConfig) -> ModelConfig:
    """The configuration with the sizes of the model that it starts from, if there is one.

    Raises `UserError` where a size was given that is not the model's, and for heads that do not
    divide the width.
    """
    if config.init_from:
        from hpcpar.nn.huggingface import read_sizes

        default = ModelConfig()
        sizes = read_sizes(config.init_from)
        for name, value in sizes.items():
            given = getattr(config, name)
            if given not in (getattr(default, name), value):
                raise UserError(f"--model.{name} is {given}, but the model in {config.init_from} has {value}")
        kept = {f.name: getattr(config, f.name) for f in fields(config)}
        config = ModelConfig(**{**kept, **sizes})
    if config.kind == "gpt" and config.width % config.heads:
        raise UserError(
            f"--model.heads {config.heads} does not divide --model.width {config.width}: "
            f"take a width of {-(-config.width // config.heads) * config.heads}"
        )
    return config


def build_model(config: ModelConfig, data: "Dataset") -> Model:
    """The model for this data; raises `UserError` when the two do not go together."""
    if (config.kind == "gpt") != (data.kind != "table"):
        takes, need = ("text", "--data.kind bytes or tokens") if config.kind == "gpt" else ("tables", "--data.kind table")
        raise UserError(f"--model.kind {config.kind} reads {takes}: it needs {need}, not {data.kind}")
    if config.kind == "gpt":
        vocabulary = config.vocabulary or data.vocabulary
        if vocabulary < data.vocabulary:
            raise UserError(
                f"--model.vocabulary is {vocabulary}, but the data holds tokens up to {data.vocabulary - 1}"
            )
        return gpt(config.layers, config.heads, config.width, config.context, vocabulary)
    if config.kind == "mlp":
        return mlp(data.features, data.outputs, config.width, config.layers, data.task)
    return linear(data.features, data.outputs, data.task)
