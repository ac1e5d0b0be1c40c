"""The end of a program that has used torch.distributed."""

import os
import sys
from typing import NoReturn

import torch.distributed as dist

__all__ = ["end"]


def end() -> NoReturn:
    """End this process, as all ranks must; gloo's threads may abort an orderly end of it."""
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
