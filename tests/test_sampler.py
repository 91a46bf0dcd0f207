"""sampler.py: every solver reaches the data, at its order, and agrees with diffusers' numbers.

Lesson 12. The denoisers are exact, so that what is tested is the solver alone.
"""

from itertools import islice
from unittest import mock

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quick import noise

from tinygif.errors import TinygifError
from tinygif.exact import ExactDenoiser
from tinygif.guidance import Denoiser, Thresholded, guide
from tinygif.sampler import (
    DDIM,
    DDPM,
    SOLVERS,
    DPMSolver,
    Move,
    sample,
    sample_step,
    timesteps,
    trajectory,
)
from tinygif.schedule import SCHEDULES, Schedule, zero_terminal_snr
from tinygif.text import Condition, Text

KEY = jax.random.key(0)
TWO = jnp.array([[-1.0], [1.0]])  # its exact denoiser is tanh(alpha x / sigma^2)
LINE = jnp.asarray(np.linspace(-2, 2, 5)[:, None], jnp.float32)
T = 100
MADE = {kind: make(T) for kind, make in SCHEDULES.items()}
MADE |= {f"zero {kind}": zero_terminal_snr(s) for kind, s in MADE.items() if not s.flow}
names = st.sampled_from(sorted(MADE))


class Gaussian(eqx.Module):
    """The exact denoiser of N(mean, std^2): its ODE has a solution in closed form."""

    schedule: Schedule
    mean: float
    std: float

    def __call__(self, x_t, t):
        alpha, sigma = self.schedule.alpha[t], self.schedule.sigma[t]
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        return self.mean + gain * (x_t - alpha * self.mean)


class Clock(eqx.Module):
    """Guesses the step it was asked about, so that a trajectory tells its times."""

    def __call__(self, x_t, t):
        return jnp.full_like(x_t, t)


def solve(solver, schedule, x_t, x0, t, t_next, *, z=0.0, x0_before=None, t_before=None, key=None):
    """One move from t to t_next, in which the fresh noise is z, unless there is a key."""
    x_t, x0 = (jnp.asarray(x, jnp.float32) for x in (x_t, x0))
    x0_before = x0 if x0_before is None else jnp.full_like(x0, x0_before)
    step = lambda i: jnp.asarray(i, jnp.int32)  # noqa: E731
    t, t_next, t_before = step(t), step(t_next), step(t if t_before is None else t_before)
    move = Move(t, t_next, x_t, x0, t_before, x0_before, KEY if key is None else key)
    if key is not None:
        return np.asarray(solver(schedule, move))
    told = lambda key, shape, dtype: jnp.broadcast_to(jnp.asarray(z, dtype), shape)  # noqa: E731
    with mock.patch("jax.random.normal", told):
        return np.asarray(solver(schedule, move))


# ---- times -----------------------------------------------------------------------------------


@given(st.integers(2, 2000), st.data())
def test_times_fall_evenly_from_T_to_0(length, data):
    steps = data.draw(st.integers(1, length))
    times = timesteps(length, steps)
    assert (times[0], times[-1], len(times)) == (length, 0, steps + 1)
    assert (np.diff(times) < 0).all()
    np.testing.assert_allclose(times, np.arange(steps, -1, -1) * length / steps, atol=0.5001)


@pytest.mark.parametrize("steps", [0, 11])
def test_an_impossible_number_of_steps_is_refused(steps):
    with pytest.raises(TinygifError, match=f"between 1 and T=10 sampling steps, got {steps}"):
        timesteps(10, steps)


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_fewer_steps_still_start_at_T(steps):
    """A known defect elsewhere: 7 steps that begin in mid-schedule, on noise meant for T."""
    run = trajectory(Clock(), MADE["linear"], jnp.zeros(1), key=KEY, steps=steps)
    told = [float(guess[0]) for _, guess in run]
    assert told == [float(t) for t in timesteps(T, steps)[:-1]] and told[0] == T


# ---- the ideal denoiser leads to the data ----------------------------------------------------


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize("name", sorted(MADE))
def test_every_solver_lands_on_the_data(name, solver):
    """Each sample is one of three clips, and every clip is drawn by some noise."""
    schedule, data = MADE[name], jnp.sign(noise(3, 2, 1, 4, 4, seed=1))
    exact, start = ExactDenoiser(schedule, data), noise(32, 2, 1, 4, 4, seed=2)
    x = np.asarray(sample(exact, schedule, start, key=KEY, solver=SOLVERS[solver](), steps=20))
    away = np.abs(x[:, None] - np.asarray(data)[None]).max(axis=(2, 3, 4, 5))
    np.testing.assert_allclose(away.min(axis=1), 0, atol=1e-4)
    assert set(np.argmin(away, axis=1).tolist()) == {0, 1, 2}


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_one_step_is_the_first_guess(solver):
    schedule = MADE["zero cosine"]
    exact = ExactDenoiser(schedule, TWO)
    x = sample(exact, schedule, LINE, key=KEY, solver=SOLVERS[solver](), steps=1)
    np.testing.assert_allclose(x, exact(LINE, T), atol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "cosine", "rectified"])
@pytest.mark.parametrize("solver, error", [(DDIM(), 0.016), (DPMSolver(), 0.001)])
def test_a_gaussian_follows_its_closed_form(kind, solver, error):
    """Data N(m, s^2): the ODE keeps (x_t - alpha m) / sqrt(alpha^2 s^2 + sigma^2) constant.

    Measured on linear: DDIM 0.053, 0.027, 0.014, 0.007 after 50, 100, 200, 400 steps; 2M 0.0003.
    """
    schedule, mean, std = SCHEDULES[kind](400), 0.5, 0.3
    start = np.linspace(-2, 2, 9)
    alpha, sigma = float(schedule.alpha[-1]), float(schedule.sigma[-1])
    z = (start - alpha * mean) / np.hypot(alpha * std, sigma)
    denoiser, start = Gaussian(schedule, mean, std), jnp.asarray(start, jnp.float32)
    x = sample(denoiser, schedule, start, key=KEY, solver=solver, steps=200)
    np.testing.assert_allclose(x, mean + z * std, atol=error)


def test_ancestral_sampling_keeps_unit_variance():
    """Data N(0, 1): x_t is N(0, 1) at every t; noise that is not fresh each step piles up."""
    schedule = MADE["cosine"]
    start, exact = noise(20_000, seed=3), Gaussian(schedule, 0.0, 1.0)
    for x, _ in trajectory(exact, schedule, start, key=KEY, solver=DDPM(), steps=T):
        assert np.std(x) == pytest.approx(1, abs=0.03)
        assert np.mean(x) == pytest.approx(0, abs=0.03)
    assert abs(np.corrcoef(start, x)[0, 1]) < 0.03  # nothing is left of where it started


# ---- one step, by hand -----------------------------------------------------------------------


@given(names, st.integers(1, T), st.integers(0, T - 1), st.floats(-2, 2), st.floats(-1, 1))
def test_ddpm_is_bayes_posterior(name, t, s, x_t, x0):
    """q(x_s | x_t, x0): the product of N(alpha_s x0, sigma_s^2) and N(a x_s, added) in x_s."""
    s, t = min(s, t - 1), t
    schedule = MADE[name]
    alpha, sigma = np.asarray(schedule.alpha, np.float64), np.asarray(schedule.sigma, np.float64)
    a = alpha[t] / alpha[s]
    added = sigma[t] ** 2 - a**2 * sigma[s] ** 2
    if s == 0:
        mean, variance = x0, 0.0
    else:
        variance = 1 / (1 / sigma[s] ** 2 + a**2 / added)
        mean = variance * (alpha[s] * x0 / sigma[s] ** 2 + a * x_t / added)
    still, moved = (float(solve(DDPM(), schedule, x_t, x0, t, s, z=z)) for z in (0, 1))
    assert still == pytest.approx(mean, abs=5e-3)
    assert moved - still == pytest.approx(variance**0.5, abs=2e-3)


def test_without_eta_ddim_ignores_its_key_and_with_it_does_not():
    move = MADE["cosine"], LINE, LINE / 2, 70, 30
    for eta, differs in [(0.0, False), (0.5, True), (1.0, True)]:
        one, other = (solve(DDIM(eta), *move, key=jax.random.key(seed)) for seed in (0, 1))
        assert (np.abs(one - other).max() > 0.05) == differs
        assert differs or (one == other).all()


@given(st.integers(1, T), st.integers(0, T - 1), st.floats(-2, 2), st.floats(-1, 1))
def test_ddim_on_rectified_flow_is_eulers_step(t, s, x_t, x0):
    s = min(s, t - 1)
    x_t, x0 = np.float32(x_t), np.float32(x0)
    v = (x_t - x0) / (t / T)  # eps - x0
    got = solve(DDIM(), MADE["rectified"], x_t, x0, t, s)
    assert float(got) == pytest.approx(x_t + (s - t) / T * v, abs=1e-5)


@given(names, st.integers(1, T), st.integers(0, T - 1), st.floats(-2, 2), st.floats(-1, 1))
def test_dpm_solver_without_a_guess_before_it_is_ddim(name, t, s, x_t, x0):
    s = min(s, t - 1)
    one, other = (solve(solver, MADE[name], x_t, x0, t, s) for solver in (DDIM(), DPMSolver()))
    np.testing.assert_allclose(one, other, atol=1e-5)


@given(names, st.tuples(*[st.integers(0, T)] * 3).filter(lambda times: len(set(times)) == 3))
def test_dpm_solver_extrapolates_in_lambda(name, times):
    """Algorithm 2: D = (1 + 1 / 2r) x0 - (1 / 2r) before with r = h_before / h."""
    schedule, (s, t, u) = MADE[name], sorted(times)
    alpha, sigma = np.asarray(schedule.alpha, np.float64), np.asarray(schedule.sigma, np.float64)
    x_t, x0, before = 0.7, 0.4, -0.3
    if s == 0 or alpha[u] == 0:  # lambda is infinite: first order
        D = x0
    else:
        lam = np.log(alpha[[s, t, u]] / sigma[[s, t, u]])
        r = (lam[1] - lam[2]) / (lam[0] - lam[1])
        D = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * before
    expected = sigma[s] / sigma[t] * x_t - (alpha[t] * sigma[s] / sigma[t] - alpha[s]) * D
    got = solve(DPMSolver(), schedule, x_t, x0, t, s, x0_before=before, t_before=u)
    assert float(got) == pytest.approx(expected, rel=2e-3, abs=2e-3)


# ---- order -----------------------------------------------------------------------------------


def halfway(solver, schedule, steps):
    """x at T / 2, not at 0: there a finite data set snaps to its clips, whatever the solver."""
    exact = ExactDenoiser(schedule, TWO)
    run = trajectory(exact, schedule, LINE, key=KEY, solver=solver, steps=steps)
    return np.asarray(list(islice(run, steps // 2))[-1][0])


@pytest.mark.parametrize("kind, solver, low, high", [
    ("linear", DDIM(), 0.9, 1.1), ("linear", DPMSolver(), 1.85, 2.15),
    ("scaled_linear", DDIM(), 0.9, 1.1), ("scaled_linear", DPMSolver(), 1.85, 2.15),
    ("rectified", DDIM(), 0.9, 1.1), ("rectified", DPMSolver(), 1.7, 2.15),
    ("cosine", DDIM(), 0.9, 1.1), ("cosine", DPMSolver(), 1.5, 2.15),
])  # fmt: skip
def test_twice_the_steps_halve_the_error_and_quarter_it_at_second_order(kind, solver, low, high):
    """log2 of the errors' ratio, against every step of T = 512 taken at second order.

    Measured: 1.0 for DDIM; for DPM-Solver++(2M) 2.0 on (scaled) linear, 1.9 on rectified, 1.7 on
    cosine: where alpha[T] is (nearly) 0 the first steps are infinite in lambda, however many.
    """
    schedule = SCHEDULES[kind](512)
    fine = halfway(DPMSolver(), schedule, 512)
    error = [np.abs(halfway(solver, schedule, n) - fine).max() for n in (16, 32, 64)]
    slopes = np.log2(np.array(error[:-1]) / error[1:])
    assert low < slopes.min() and slopes.max() < high, (error, slopes)


# ---- seeds, compilation ----------------------------------------------------------------------


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_the_same_seed_gives_the_same_clip(solver):
    """To the bit. An ODE's clip depends on where it starts alone; DDPM's on the key alone, since
    with data N(0, 1) it forgets its start."""
    schedule, solver, start = MADE["linear"], SOLVERS[solver](), noise(4, 2)

    def draw(start, seed):
        exact, key = Gaussian(schedule, 0.0, 1.0), jax.random.key(seed)
        return np.asarray(sample(exact, schedule, start, key=key, solver=solver, steps=5))

    x = draw(start, 0)
    np.testing.assert_array_equal(draw(start, 0), x)
    ancestral = isinstance(solver, DDIM) and float(solver.eta) == 1
    assert (np.abs(draw(start, 1) - x).max() > 0.1) == ancestral
    assert (np.abs(draw(start + 1, 0) - x).max() > 0.1) != ancestral


def test_every_step_draws_fresh_noise():
    """A denoiser of zeros shows the noise: a step's result less its mean is std z."""
    schedule, zeros = MADE["linear"], jnp.zeros(1000)
    run = trajectory(lambda x, t: 0 * x, schedule, zeros, key=KEY, solver=DDPM(), steps=4)
    times, x, drawn = timesteps(T, 4), zeros, []
    for (after, _), t, t_next in zip(run, times[:-1], times[1:], strict=True):
        drawn.append(np.asarray(after) - solve(DDPM(), schedule, x, zeros, t, t_next))
        x = after
    correlation = np.corrcoef(np.stack(drawn[:-1]))  # the last step adds none
    np.testing.assert_allclose(correlation, np.eye(3), atol=0.15)
    np.testing.assert_array_equal(drawn[-1], 0)


class Counting(eqx.Module):
    """A model that calls `count` whenever it is traced, which is once a compilation."""

    count: object = eqx.field(static=True)

    def __call__(self, x_t, level, condition):
        self.count()
        return condition.text.pooled[0] + level * x_t


@pytest.mark.parametrize("solvers", [[DDIM(), DDIM(0.3), DDPM()], [DPMSolver(), DPMSolver()]])
def test_one_compilation_serves_prompts_guidance_steps_and_eta(solvers):
    traced = []
    model = Counting(lambda: traced.append(1))
    start = noise(2, 2, 1, 3, 3)

    def prompts(x):
        ones = jnp.full((2, 1), x)
        return Condition(Text(ones[..., None], ones, jnp.ones((2, 1), bool)))

    for i, (solver, steps, kind) in enumerate(
        zip(solvers, (3, 5, 4), ("linear", "cosine", "scaled_linear"), strict=False)
    ):
        guided = guide(Denoiser(model, MADE[kind], prompts(float(i)), "x0"), prompts(0.5), 1.0 + i)
        denoiser = Thresholded(guided, 1.0, jnp.asarray(0.9 + 0.01 * i))
        sample(denoiser, MADE[kind], start, key=jax.random.key(i), solver=solver, steps=steps)
    assert len(traced) == 1


def test_a_trajectory_yields_every_step_and_its_guess():
    schedule = MADE["cosine"]
    exact = ExactDenoiser(schedule, TWO)
    states = list(trajectory(exact, schedule, LINE, key=KEY, steps=10))
    assert len(states) == 10
    np.testing.assert_allclose(states[0][1], exact(LINE, T), atol=1e-6)
    np.testing.assert_allclose(states[3][1], exact(states[2][0], 70), atol=1e-6)
    np.testing.assert_array_equal(states[-1][0], sample(exact, schedule, LINE, key=KEY, steps=10))


def test_ddim_is_the_default_and_a_trajectory_is_made_of_sample_steps():
    schedule = MADE["linear"]
    exact = ExactDenoiser(schedule, TWO)
    (x, _), *_ = trajectory(exact, schedule, LINE, key=KEY, steps=10)
    np.testing.assert_allclose(x, solve(DDIM(), schedule, LINE, exact(LINE, T), T, 90), atol=1e-6)
    steps = (jnp.asarray(i, jnp.int32) for i in (T, T, 90))
    alone, guess = sample_step(exact, schedule, DDIM(), LINE, jnp.zeros_like(LINE), *steps, KEY)
    np.testing.assert_allclose(x, alone, atol=1e-6)
    np.testing.assert_allclose(guess, exact(LINE, T), atol=1e-6)


class Recorder(eqx.Module):
    """A solver that moves nowhere and shows the step before, with the first guess made there."""

    def __call__(self, schedule, move):
        assert isinstance(move, Move)
        before = jnp.stack([move.t_before.astype(jnp.float32), move.x0_before[0]])
        return jnp.concatenate([before, move.x0[:1]])


def test_a_solver_is_any_function_of_a_move_which_tells_it_the_step_before():
    """With a denoiser that returns the time. Before the first step there is no guess: 0."""
    run = trajectory(Clock(), MADE["linear"], jnp.zeros(3), key=KEY, solver=Recorder(), steps=4)
    told = np.stack([x for x, _ in run])
    np.testing.assert_array_equal(told, [[100, 0, 100], [100, 100, 75], [75, 75, 50], [50, 50, 25]])


# ---- diffusers' numbers ----------------------------------------------------------------------
#
# Written by diffusers 0.42.1 with torch 2.13.0, on a CPU:
#
#   kinds = {"linear": dict(beta_start=1e-4, beta_end=0.02, beta_schedule="linear"),
#            "scaled_linear": dict(beta_start=0.00085, beta_end=0.012,
#                                  beta_schedule="scaled_linear"),
#            "cosine": dict(beta_schedule="squaredcos_cap_v2")}
#   both = dict(prediction_type="sample", timestep_spacing="trailing")
#   ddim = DDIMScheduler(**kinds[kind], **both, clip_sample=False, rescale_betas_zero_snr=zero)
#   dpmpp = DPMSolverMultistepScheduler(**kinds[kind], **both, algorithm_type="dpmsolver++",
#                                       solver_order=2, final_sigmas_type="zero")
#   def run(s, eta=None):
#       s.set_timesteps(10)
#       x, states = torch.tensor([-1.7, -0.4, 0.1, 0.6, 1.2]), []
#       for i, t in enumerate(s.timesteps):
#           bar = s.alphas_cumprod[t]
#           noise = torch.sin(torch.arange(5) + i)
#           options = {} if eta is None else dict(eta=eta, variance_noise=noise)
#           x0 = torch.tanh(bar**0.5 * x / (1 - bar))
#           x = s.step(x0, t, x, **options).prev_sample
#           states.append(x)
#       return states[5], states[8], states[9]
#   variances = [DDPMScheduler(**kinds[kind])._get_variance(t) for t in (1, 9, 99, 499, 998, 999)]
#
# The grids are the same. Their alphas_cumprod[i] is our alpha[i + 1]^2, since they have no entry
# for the data; "trailing" visits i = 999, 899, ..., 99, which are our 1000, 900, ..., 100; and the
# last step goes to alpha-bar 1 (set_alpha_to_one; final_sigmas_type="zero"), which is our index 0.

START = [-1.7, -0.4, 0.1, 0.6, 1.2]
STATES = {  # after 6, 9 and 10 of 10 steps
    ("ddim", "linear"): (
        [-1.654745, -0.391162, 0.097818, 0.586527, 1.170821],
        [-1.339274, -0.617346, 0.185583, 0.794911, 1.128756],
        [-1.0, -0.999977, 0.936251, 0.999999, 1.0],
    ),
    ("ddim", "zero linear"): (
        [-1.654307, -0.390957, 0.097765, 0.586232, 1.17036],
        [-1.3395, -0.614698, 0.184153, 0.792947, 1.128272],
        [-1.0, -0.999974, 0.933194, 0.999999, 1.0],
    ),
    ("ddim", "scaled_linear"): (
        [-1.627938, -0.403957, 0.101428, 0.602648, 1.176452],
        [-1.356215, -0.700612, 0.268759, 0.846093, 1.151266],
        [-1.0, -0.999994, 0.984705, 1.0, 1.0],
    ),
    ("ddim", "zero scaled_linear"): (
        [-1.624362, -0.39759, 0.099697, 0.59411, 1.167451],
        [-1.361587, -0.68006, 0.244689, 0.832597, 1.14952],
        [-1.0, -0.999979, 0.968057, 0.999998, 1.0],
    ),
    ("ddim", "cosine"): (
        [-1.538176, -0.449711, 0.115974, 0.652179, 1.169328],
        [-1.192161, -0.86101, 0.643856, 0.93315, 1.087625],
        [-1.0, -1.0, 1.0, 1.0, 1.0],
    ),
    ("ddim", "zero cosine"): (
        [-1.538175, -0.4497, 0.115971, 0.652167, 1.169321],
        [-1.192163, -0.861004, 0.643845, 0.933146, 1.087625],
        [-1.0, -1.0, 1.0, 1.0, 1.0],
    ),
    ("dpmpp", "linear"): (
        [-1.681221, -0.398111, 0.099566, 0.596864, 1.1906],
        [-1.405435, -0.814162, 0.271832, 0.975811, 1.230249],
        [-1.0, -0.999999, 0.986614, 1.0, 1.0],
    ),
    ("dpmpp", "scaled_linear"): (
        [-1.6703, -0.421686, 0.106053, 0.627835, 1.215532],
        [-1.386429, -0.826501, 0.397921, 0.935356, 1.194613],
        [-1.0, -0.999999, 0.998514, 1.0, 1.0],
    ),
    ("dpmpp", "cosine"): (
        [-1.581431, -0.492215, 0.128678, 0.704369, 1.221185],
        [-1.205572, -0.916585, 0.844961, 0.970578, 1.106478],
        [-1.0, -1.0, 1.0, 1.0, 1.0],
    ),
}
NOISY = {  # eta, kind: after 6 and 9 of 10 steps with the noise sin(0..4 + i)
    (0.5, "linear"): (
        [-0.920064, -0.373782, -0.104647, 0.309563, 0.785337],
        [-0.766438, 0.186694, 0.431468, 0.362072, 0.47677],
    ),
    (1.0, "linear"): (
        [-0.838509, -0.804433, -0.048517, 0.753864, 0.872264],
        [-0.362394, 0.63052, 0.729888, 0.427506, -0.497092],
    ),
    (0.5, "scaled_linear"): (
        [-1.024162, -0.278015, -0.061985, 0.273849, 0.795588],
        [-0.874634, 0.016352, 0.41307, 0.46518, 0.695654],
    ),
    (1.0, "scaled_linear"): (
        [-0.495852, -0.609619, -0.288898, 0.299789, 0.694573],
        [-0.491543, 0.008233, 0.511478, 0.435057, 0.255145],
    ),
    (0.5, "cosine"): (
        [-0.926896, -0.064469, 0.000603, 0.136675, 0.636965],
        [-0.914697, 0.58723, 0.67672, 0.654328, 0.814934],
    ),
    (1.0, "cosine"): (
        [0.107439, -0.349042, -0.464509, -0.165269, 0.289445],
        [0.971031, -0.759504, -0.940573, -0.993306, 0.725113],
    ),
}
VARIANCES = {  # DDPM, of the steps from t = 2, 10, 100, 500, 999, 1000 to the one below
    "linear": [5.45348e-05, 0.000238206, 0.00203456, 0.0100314, 0.01998, 0.02],
    "scaled_linear": [0.000426349, 0.000801642, 0.00136171, 0.00479486, 0.0119817, 0.0119994],
    "cosine": [2.17934e-05, 7.35612e-05, 0.000517229, 0.00313613, 0.749994, 0.998998],
}


def golden(name):
    zero, kind = name.startswith("zero "), name.removeprefix("zero ")
    schedule = SCHEDULES[kind](1000)
    schedule = zero_terminal_snr(schedule) if zero else schedule
    return schedule, ExactDenoiser(schedule, TWO), jnp.array(START)[:, None]


@pytest.mark.parametrize("solver, name", sorted(STATES))
def test_trajectories_are_diffusers(solver, name):
    schedule, exact, start = golden(name)
    states = list(trajectory(exact, schedule, start, key=KEY, solver=SOLVERS[solver](), steps=10))
    got = [states[i][0][:, 0] for i in (5, 8, 9)]
    np.testing.assert_allclose(np.stack(got), STATES[solver, name], atol=1e-4)


@pytest.mark.parametrize("eta, kind", sorted(NOISY))
def test_noisy_steps_are_diffusers(eta, kind):
    schedule, exact, x = golden(kind)
    states, times = [], timesteps(1000, 10)
    for i, (t, t_next) in enumerate(zip(times[:-1], times[1:], strict=True)):
        z = np.sin(np.arange(5) + i)[:, None]
        x = jnp.asarray(solve(DDIM(eta), schedule, x, exact(x, int(t)), t, t_next, z=z))
        states.append(x)
    got = [states[i][:, 0] for i in (5, 8)]
    np.testing.assert_allclose(np.stack(got), NOISY[eta, kind], atol=1e-4)


@pytest.mark.parametrize("kind", sorted(VARIANCES))
def test_ddpm_variances_are_diffusers(kind):
    schedule, times = SCHEDULES[kind](1000), (2, 10, 100, 500, 999, 1000)
    std = [float(solve(DDPM(), schedule, 0, 0, t, t - 1, z=1)) for t in times]
    np.testing.assert_allclose(np.square(std), VARIANCES[kind], rtol=3e-3)
