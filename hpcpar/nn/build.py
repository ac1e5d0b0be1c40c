"""From a configuration and the data to a model."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

from hpcpar.errors import UserError
from hpcpar.nn.gpt import gpt
from hpcpar.nn.linear_model import linear
from hpcpar.nn.mlp import mlp
from hpcpar.nn.model import Model

if TYPE_CHECKING:
    from hpcpar.data import Dataset

__all__ = ["ModelConfig", "build_model", "complete_model", "fit_data"]


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
        init_from: A folder with a Hugging Face GPT-2 to start from (config.json, model.safetensors)
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

        sizes = read_sizes(config.init_from)
        for name, value in sizes.items():
            given = getattr(config, name)
            if given not in (getattr(ModelConfig, name), value):
                raise UserError(
                    f"--model.{name} is {given}, but the model in {config.init_from} has {value}"
                )
        config = replace(config, kind="gpt", **sizes)  # type: ignore[arg-type]
    if config.kind == "gpt" and config.width % config.heads:
        raise UserError(
            f"--model.heads {config.heads} does not divide --model.width {config.width}: "
            f"take a width of {-(-config.width // config.heads) * config.heads}"
        )
    return config


def fit_data(config: ModelConfig, data: "Dataset") -> ModelConfig:
    """The configuration with the vocabulary of the data, unless it names a larger one.

    Raises `UserError` when model and data do not go together.
    """
    if config.kind == "gpt" and data.kind == "table":
        raise UserError(
            "--model.kind gpt reads text or tokens: take --model.kind mlp or linear for a table"
        )
    if config.kind != "gpt" and data.kind != "table":
        raise UserError(
            f"--model.kind {config.kind} reads tables: it needs --data.kind table and --data.paths"
        )
    if config.kind == "gpt" and 0 < config.vocabulary < data.vocabulary:
        raise UserError(
            f"--model.vocabulary is {config.vocabulary}, but the data needs {data.vocabulary}: "
            f"its largest token is {data.vocabulary - 1}"
        )
    return replace(config, vocabulary=config.vocabulary or data.vocabulary)


def build_model(config: ModelConfig, data: "Dataset | None") -> Model:
    """The model of this configuration, for data that it fits; a GPT needs to know no data."""
    if config.kind == "gpt":
        return gpt(config.layers, config.heads, config.width, config.context, config.vocabulary)
    assert data is not None
    task = cast(Literal["classification", "regression"], data.task)
    if config.kind == "mlp":
        return mlp(data.features, data.outputs, config.width, config.layers, task)
    return linear(data.features, data.outputs, task)
