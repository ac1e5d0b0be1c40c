"""python -m hpcpar export RUN OUT"""

from typing import TYPE_CHECKING

from hpcpar.comm import together
from hpcpar.nn.huggingface import write_model
from hpcpar.tools.load import load_gpt

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["export"]


def export(run: str, out: str, *, comm: "Communicator") -> None:
    """Write a run's newest weights as the folder that Hugging Face's GPT2LMHeadModel loads.

    Args:
        run: The folder of a run.
        out: The folder to write config.json and model.safetensors into.
    """
    with together(comm):
        if comm.rank == 0:
            trained = load_gpt(run)
            write_model(out, trained.weights, trained.sizes)
    print(f"written: {out} (transformers.GPT2LMHeadModel.from_pretrained({out!r}) loads it)")
