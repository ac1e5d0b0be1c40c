"""What a product of matrices has to move at least, whatever the algorithm."""

from math import sqrt

__all__ = ["lower_bound"]


def lower_bound(m: int, n: int, k: int, ranks: int, memory: float | None = None) -> float:
    """Words that some rank receives at least, if each operand is on the ranks once, and so is C.

    Without a limit of memory: Al Daas, Ballard, Grigori, Kumar and Rouse, "Tight
    memory-independent parallel matrix multiplication communication lower bounds" (SPAA 2022),
    theorem 3. With S = `memory` words a rank, less than (m n k / P)^(2/3), it touches at least
    2 m n k / (P sqrt(S)) + S: Kwasniewski et al., "Red-blue pebbling revisited" (SC 2019), section
    6. What it holds to begin and end with is taken off.
    """
    if 0 in (m, n, k) or ranks <= 1:
        return 0.0
    small, middle, large = sorted((m, n, k))
    held = (large * middle + large * small + middle * small) / ranks
    if ranks <= large / middle:
        touched = (large * middle + large * small) / ranks + middle * small
    elif ranks <= large * middle / small**2:
        touched = 2 * sqrt(large * middle * small**2 / ranks) + large * middle / ranks
    else:
        touched = 3 * (large * middle * small / ranks) ** (2 / 3)
    if memory and memory < (m * n * k / ranks) ** (2 / 3):
        touched = max(touched, 2 * m * n * k / (ranks * sqrt(memory)) + memory)
    return max(0.0, touched - held)
