"""Documents of very uneven length on 8 ranks, in order and dealt by cost."""

from pathlib import Path

import numpy as np

from hpcpar.data.skew import DocumentSkew, document_skew
from hpcpar.parallel.sequence_cost import SequenceCost
from hpcpar.tools.skew_picture import draw_documents

__all__ = ["draw_skew", "uneven_documents"]

RANKS, EACH, CONTEXT, WIDTH = 8, 16, 1024, 128


def draw_skew(folder: Path) -> None:
    """skew_documents.svg: lengths, and what each rank has to do."""
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "hpcpar"}):
        draw_documents(folder / "skew_documents.svg", uneven_documents())


def uneven_documents() -> DocumentSkew:
    """128 documents whose lengths follow Pareto's law with shape 1.5.

    Their cost is that of a block's operations: 24 C^2 a token for its products, 2 C for each pair
    of positions.
    """
    random = np.random.default_rng(10)
    lengths = np.ceil(100 * (1 + random.pareto(1.5, RANKS * EACH))).astype(np.int64)
    return document_skew(lengths, RANKS, CONTEXT, SequenceCost(12 * WIDTH, 1).of)
