"""Exercise 19: the best thin change. Check it: python -m lessons.check 19"""

import numpy as np


def thin(change: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """`up` (n_out, rank) and `down` (rank, n_in) whose product is as near to `change` as can be.

    change: (n_out, n_in). Near means the sum of squared differences. rank is at most the smaller
    side of `change`.

    Hint: np.linalg.svd(change, full_matrices=False) gives u, s, v with change = u @ diag(s) @ v,
    the largest s first. Which columns of u and rows of v do you keep, and where does s go?
    """
    raise NotImplementedError("thin is yours to write, see the hint in its docstring")
