"""python -m hpcpar evaluate RUN --data FILE"""

import math
from typing import TYPE_CHECKING

import numpy as np

from hpcpar import parallel
from hpcpar.comm import together
from hpcpar.data import consecutive_windows
from hpcpar.errors import UserError
from hpcpar.tools.load import load_gpt

if TYPE_CHECKING:
    from hpcpar.comm import Communicator

__all__ = ["evaluate"]


def evaluate(run: str, data: str = "", micro: int = 4, *, comm: "Communicator") -> None:
    """The mean loss of a trained GPT over the consecutive windows of a file, shared by all ranks.

    Window i holds tokens i*T to i*T + T, T being the context; the last one is a target only.
    What is left behind the last whole window is not used.

    Args:
        run: The folder of a run, or one that GPT2LMHeadModel loads.
        data: A file: text for a model of bytes, a .bin of tokens for others.
        micro: Windows that go through the model at once.
    """
    with together(comm):
        if micro < 1:
            raise UserError(f"--micro is {micro}; it must be at least 1")
        if not data:
            raise UserError("name the file to evaluate on: --data FILE")
        trained = load_gpt(run)
        sizes = trained.sizes
        windows = consecutive_windows(
            data, trained.reads, sizes["context"], sizes["vocabulary"], trained.separator
        )
        params = {name: comm.device.asarray(array) for name, array in trained.params.items()}
    every = np.arange(len(windows))
    loss = parallel.evaluate(trained.model, params, windows, every, micro, comm)
    print(f"windows {len(windows)}, targets {len(windows) * windows.targets_per_sample}")
    bits = f" ({loss / math.log(2):.6f} bits per byte)" if trained.reads == "bytes" else ""
    print(f"loss {loss:.6f}{bits}")
