"""Models with forward and backward written out: GPT, multi-layer perceptron, linear."""

from hpcpar.nn.arena import Arena
from hpcpar.nn.build import ModelConfig, build_model, complete_model, fit_data
from hpcpar.nn.gpt import gpt
from hpcpar.nn.huggingface import load_weights
from hpcpar.nn.linear_model import linear
from hpcpar.nn.mlp import mlp
from hpcpar.nn.model import Model
from hpcpar.nn.parameters import Cut, Flat, Parameter

__all__ = [
    "Arena",
    "Cut",
    "Flat",
    "Model",
    "ModelConfig",
    "Parameter",
    "build_model",
    "complete_model",
    "fit_data",
    "gpt",
    "linear",
    "load_weights",
    "mlp",
]
