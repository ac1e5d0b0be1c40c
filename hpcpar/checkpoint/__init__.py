"""Checkpoints: written whole or not at all, checked when read, the same for any layout of ranks.

    checkpoints/step-00000100/
        part-0000.safetensors  what rank 0 alone updates: weights and optimizer state, flat
        part-0001.safetensors  ...
        manifest.json          what the parts are parts of; size and sha256 of each; the run

- `writer`: each rank writes its part in the background; `part_file`, `commit`, `job`.
- `reading`, `resume`: checks, and goes back to a checkpoint that is whole.
- `manifest`, `places`: what a checkpoint says of itself; the only names that are touched.
"""

from hpcpar.checkpoint.config import CheckpointConfig
from hpcpar.checkpoint.manifest import Facts, read_manifest
from hpcpar.checkpoint.places import list_checkpoints, remove
from hpcpar.checkpoint.reading import Checkpoint, check_fit, damages, load, load_latest
from hpcpar.checkpoint.resume import find_latest, restore
from hpcpar.checkpoint.writer import Writer

__all__ = [
    "Checkpoint",
    "CheckpointConfig",
    "Facts",
    "Writer",
    "check_fit",
    "damages",
    "find_latest",
    "list_checkpoints",
    "load",
    "load_latest",
    "read_manifest",
    "remove",
    "restore",
]
