"""python -m hpcpar TOOL: see hpcpar/tools."""

import hpcpar.threads  # isort: skip  # noqa: F401  (before NumPy is loaded: it limits the BLAS)

import sys

if __name__ == "__main__":
    if sys.argv[1:2] == ["launch"]:  # it is no rank, and must not become one
        from hpcpar.launch.launch import main as launch

        sys.exit(launch(sys.argv[2:]))

    from hpcpar.entry import run_alone, run_ranks
    from hpcpar.tools import ALONE, main

    if sys.argv[1:2] and sys.argv[1] in ALONE:
        run_alone(lambda: main(sys.argv[1:], None))
    run_ranks(lambda comm: main(sys.argv[1:], comm))
