"""Exercise 04: add v. Check it: python -m lessons.check 04"""

import numpy as np


def v_target(alpha: float, sigma: float, x0: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """What a perfect network answers: alpha eps - sigma x0. On the circle alpha^2 + sigma^2 = 1."""
    raise NotImplementedError("v_target is yours to write, see its docstring")


def from_v(
    alpha: float, sigma: float, v: np.ndarray, x_t: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`(x0, eps)` out of the answer v and x_t = alpha x0 + sigma eps.

    alpha or sigma may be 0, so divide by neither.

    Hint: alpha x_t - sigma v is (alpha^2 + sigma^2) x0 plus no eps at all. Write it out on paper.
    Which two factors make x0 vanish instead?
    """
    raise NotImplementedError("from_v is yours to write, see the hint in its docstring")
