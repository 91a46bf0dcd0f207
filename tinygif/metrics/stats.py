"""Numbers that can be checked by hand: shares with their intervals, and distances. Lesson 18."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8

from tinygif.config import DataConfig
from tinygif.metrics.oracle import Reading, views_of
from tinygif.moving_mnist import MovingMNIST

FEWEST = 5  # clips with a digit: a distance of fewer is meaningless

# ---- of any clips ----------------------------------------------------------------------------


def wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% interval of a share, for `right` of n (Wilson 1927, JASA 22, p. 209)."""
    p, q = right / n, z**2 / n
    half = (p * (1 - p) * q + q**2 / 4) ** 0.5
    return max(0.0, (p + q / 2 - half) / (1 + q)), min(1.0, (p + q / 2 + half) / (1 + q))


def shares(right: Bool[np.ndarray, "b k"], columns: Sequence[str]) -> dict[str, Any] | None:
    """The number of clips, and for each column its percent right with the interval.

    None if there is no clip.
    """
    if len(right) == 0:
        return None
    row: dict[str, Any] = {"n": len(right)}
    for name, column in zip(columns, right.T, strict=True):
        low, high = wilson(int(column.sum()), len(right))
        row[name] = dict(percent=100 * float(column.mean()), low=100 * low, high=100 * high)
    return row


def frechet(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """Squared Frechet distance of the Gaussians through two sets (Dowson and Landau 1982, eq. 4).

    |mean difference|^2 + tr(A + B - 2 (A B)^(1/2)), of covariances A and B.
    """
    first, second = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    apart = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return max(0.0, float(apart + np.trace(first) + np.trace(second) - 2 * cross))


def rms_distances(
    a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]
) -> Float[np.ndarray, "n m"]:
    """Root mean square difference of every row of a to every row of b."""
    squares = (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)
    return np.sqrt(squares.clip(0) / a.shape[1])


def evenly(n: int, count: int) -> Int[np.ndarray, " k"]:
    """Indices of at most `count` of n things, evenly spread."""
    return np.linspace(0, n - 1, min(count, n)).astype(int)


# ---- of clips of digits ----------------------------------------------------------------------


def consistency(reading: Reading) -> float:
    """Percent of frames that, read alone, show the digit of their clip."""
    same = reading.frame_digits == reading.digits[..., None]
    found = reading.digits >= 0
    return 100 * float(same[found].mean()) if found.any() else 0.0


def constancy(clips: UInt8[np.ndarray, "b f h w c"]) -> Float[np.ndarray, " b"]:
    """How alike the frames of a clip are when the digit's motion is taken out; 1 if it only moves.

    In every frame the light's centre is moved to the middle, and the frame is correlated with the
    first. The mean over frames; light below a fifth of white does not count.
    """
    light = clips.max(-1).astype(np.float32) / 255
    light = np.where(light < 0.2, 0, light)
    for axis in (-2, -1):
        light = centred(light, axis)
    x = rearrange(light, "b f h w -> b f (h w)")
    x = x - x.mean(-1, keepdims=True)
    x = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-6)
    return (x[:, 1:] * x[:, :1]).sum(-1).mean(-1)


def centred(light: Float[np.ndarray, "b f h w"], axis: int) -> Float[np.ndarray, "b f h w"]:
    """Images moved along an axis so that their light's centre is in the middle."""
    light = np.swapaxes(light, axis, -1)
    n, total = light.shape[-1], np.maximum(light.sum((-2, -1)), 1e-6)
    centre = light.sum(-2) @ np.arange(n) / total
    source = np.arange(n) + (centre - (n - 1) / 2)[..., None]  # (b, f, n): where pixels come from
    low = np.floor(source).astype(int)
    share = (source - low)[..., None, :].astype(np.float32)
    pixel = lambda i: np.take_along_axis(light, (i % n)[..., None, :], -1)  # noqa: E731
    return np.swapaxes((1 - share) * pixel(low) + share * pixel(low + 1), axis, -1)


def first_digits(reading: Reading) -> Reading:
    """The first digit of each clip that shows one; clips without a digit are left out."""
    found = reading.digits >= 0
    clips = np.flatnonzero(found.any(1))
    return reading[clips[:, None], found[clips].argmax(1)[:, None]]


def traits(reading: Reading) -> Float[np.ndarray, "b d"]:
    """A vector for each clip of one digit: the net's features, and the path in seven numbers.

    The seven are where it starts (2), how far it goes in each half (4), how much it bends (1).
    """
    track, half = reading.centres[:, 0], reading.centres.shape[2] // 2
    bends = np.diff(track, 2, axis=1)
    wobble = np.sqrt((bends**2).sum((1, 2)) / max(1, bends.shape[1]))
    moves = [track[:, 0], track[:, half] - track[:, 0], track[:, -1] - track[:, half]]
    return np.concatenate([reading.features[:, 0], *moves, wobble[:, None]], 1)


def distances(generated: Reading, real: Reading, others: Reading) -> dict[str, float] | None:
    """Frechet distances to real clips: of generated clips, and of as many other real clips.

    Two samples of one distribution have a distance above 0, which falls as samples grow. The second
    number shows how large it is for samples of this size. Traits are measured in standard
    deviations of the real clips. They do not come from I3D, so the distances cannot be compared
    with any published FVD. The distances ignore captions, and clips played backwards are no further
    away. Clips without a digit are left out, and counted. None if fewer than FEWEST are left.
    """
    count = len(generated.digits)
    ours, reference, theirs = (traits(first_digits(x)) for x in (generated, real, others))
    if min(len(ours), len(reference), len(theirs)) < FEWEST:
        return None
    scale = np.maximum(reference.std(0), 0.01)
    samples = {"generated": ours, "real": theirs[: len(ours)]}
    found = {name: frechet(x / scale, reference / scale) for name, x in samples.items()}
    return dict(found, n=len(reference), **{"without a digit": count - len(ours)})


def memorisation(generated: Reading, real: Reading, config: DataConfig) -> dict[str, Any] | None:
    """How near the digits of clips come to a training digit: median and first percentile.

    Also the same for test digits in real clips, and the ratios. A copy comes nearer than a test
    digit does, so a ratio of 1 or more shows no sign of copies. Training digits are those that
    `config` finds on this machine. Clips without a digit are left out, and counted. None if fewer
    than FEWEST are left.
    """
    training_digits = MovingMNIST(config).images
    cutouts = [first_digits(reading).cutouts[:, 0] for reading in (generated, real)]
    if min(map(len, cutouts)) < FEWEST:
        return None
    nearest = nearest_digit(np.concatenate(cutouts), training_digits)
    result: dict[str, Any] = {
        "training digits": len(training_digits),
        "without a digit": len(generated.digits) - len(cutouts[0]),
    }
    for name, x in zip(("generated", "real"), np.split(nearest, [len(cutouts[0])])):
        result[name] = {"median": float(np.median(x)), "1%": float(np.percentile(x, 1))}
    ours, theirs = result["generated"], result["real"]
    return dict(result, ratio={name: ours[name] / max(theirs[name], 1e-6) for name in ours})


def nearest_digit(
    cutouts: Float[np.ndarray, "b v v"], digits: UInt8[np.ndarray, "n s s"]
) -> Float[np.ndarray, " b"]:
    """Root mean square distance of each cutout, moved by up to one pixel, to the nearest digit."""
    side = cutouts.shape[-1] - 2
    views = views_of(digits)[:, 1:-1, 1:-1].reshape(-1, side**2)
    shifted = [cutouts[:, y : y + side, x : x + side] for y in range(3) for x in range(3)]
    nearest = [rms_distances(x.reshape(-1, side**2), views).min(1) for x in shifted]
    return np.min(nearest, axis=0)
