"""python -m hpcpar TOOL: see hpcpar/tools."""

import hpcpar.threads  # isort: skip  # noqa: F401  (before NumPy is loaded: it limits the BLAS)

import sys

from hpcpar.entry import run_ranks
from hpcpar.tools import main

if __name__ == "__main__":
    run_ranks(lambda comm: main(sys.argv[1:], comm))
