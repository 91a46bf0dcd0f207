"""Figures of lesson 12."""

from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from lessons.check import find, load  # noqa: E402
from tinygif.codec import Pixels  # noqa: E402
from tinygif.exact import ExactDenoiser  # noqa: E402
from tinygif.gif import grid, write_gif  # noqa: E402
from tinygif.sampler import DDIM, DDPM, DPMSolver, sample, trajectory  # noqa: E402
from tinygif.schedule import linear  # noqa: E402

SCHEDULE = linear(1000)
KEY = jax.random.key(0)


def careless(schedule, move):
    """The broken 2M of the lesson: a whole step ahead instead of half a step."""
    t, s, u, lam = move.t, move.t_next, move.t_before, schedule.log_snr / 2
    k = jnp.where(u > t, (lam[s] - lam[t]) / (lam[t] - lam[u]), 0.0)
    guess = move.x0 + k * (move.x0 - move.x0_before)
    return DDIM()(schedule, move._replace(x0=guess))


def orders(path: Path) -> None:
    """Error at T / 2 against the number of steps, data {-1, +1}."""
    two = ExactDenoiser(SCHEDULE, jnp.array([[-1.0], [1.0]]))
    starts = jnp.linspace(-2, 2, 9)[:, None]

    def halfway(solver, steps: int) -> np.ndarray:
        run = trajectory(two, SCHEDULE, starts, key=KEY, solver=solver, steps=steps)
        return np.asarray(list(islice(run, steps // 2))[-1][0])

    truth, steps = halfway(DPMSolver(), 1000), (10, 20, 40, 100, 200)
    figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
    rows = {"DDIM": (DDIM(), "C0o-"), "2M": (DPMSolver(), "C2s-"),
            "2M, the half forgotten": (careless, "C3^--")}
    for name, (solver, style) in rows.items():
        error = [np.abs(halfway(solver, n) - truth).max() for n in steps]
        axes.loglog(steps, error, style, label=name)
    for order in (1, 2):
        line = [0.6 * n**-order for n in steps]
        axes.loglog(steps, line, color="gray", lw=0.8, ls=":")
        axes.text(210, line[-1], f"order {order}", color="gray", va="center")
    axes.set(xlabel="steps from T to 0", ylabel="largest error at t = T / 2", xlim=(9, 290))
    axes.set_xticks(steps, [str(n) for n in steps])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)


def draw(folder: Path) -> None:
    """12_order.png, 12_steps.gif, 12_dice.gif."""
    orders(folder / "12_order.png")
    drifting_digits = load(find("figures", "03")).drifting_digits
    exact = ExactDenoiser(SCHEDULE, drifting_digits())
    shape = (32, *exact.data.shape[1:])
    noise = np.random.default_rng(0).standard_normal(shape, np.float32)[[20, 29]]

    def make(solver, steps: int, key: int = 0) -> np.ndarray:
        key = jax.random.key(key)
        x = sample(exact, SCHEDULE, jnp.asarray(noise), key=key, solver=solver, steps=steps)
        return Pixels(1).decode(x)

    steps, solvers = (2, 4, 8, 20, 100), {"DDIM": DDIM(), "2M": DPMSolver()}
    cells, captions = [], []
    for i in range(len(noise)):
        for name, solver in solvers.items():
            cells += [make(solver, n)[i] for n in steps]
            captions += [f"{name}, {n} steps" for n in steps]
    write_gif(folder / "12_steps.gif", grid(cells, len(steps), captions, scale=2), fps=8)

    solvers = {"DDIM": DDIM(), "DDPM": DDPM()}
    cells = [make(solver, 20, key)[0] for solver in solvers.values() for key in range(4)]
    captions = [f"{name}, key {key}" for name in solvers for key in range(4)]
    write_gif(folder / "12_dice.gif", grid(cells, 4, captions, scale=2), fps=8)
