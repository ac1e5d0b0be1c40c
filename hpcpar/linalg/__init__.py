"""Distributed matrices on plain NumPy and CuPy arrays, their product, and what it costs.

layout    which rank holds what            move      from one layout to another
matrix    the blocks, and views of them    create    from arrays, functions and files
grids     the grids of a product           bounds    what any algorithm has to move
cost      words, memory and seconds        machine   measured rates
product   matmul                           operands  panels, read in place or sent
verify    Freivalds' check                 explain   the table
"""

from hpcpar.linalg.create import distribute, from_file, from_function, save
from hpcpar.linalg.explanation import explain
from hpcpar.linalg.matrix import DistributedMatrix
from hpcpar.linalg.product import matmul

__all__ = [
    "DistributedMatrix",
    "distribute",
    "explain",
    "from_file",
    "from_function",
    "matmul",
    "save",
]
