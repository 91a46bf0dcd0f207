"""The oracle reads Moving MNIST clips: which digits, which way, how fast. Lesson 18.

    python -m tinygif.metrics.oracle --mnist-dir DIR           # how often it reads a digit right
    python -m tinygif.metrics.oracle --mnist-dir DIR --train   # train it again: minutes, one core

The tracker finds the path of each digit. Along the path the digit is cut out of the frames, and a
small convolutional net reads it. The net was trained on the training digits of MNIST and of the
bundled set, never on generated clips.
"""

import functools
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from einops import rearrange
from jaxtyping import Array, Float, Int, Key, Shaped, UInt8

from tinygif.errors import expect, run_command
from tinygif.files import whole_file
from tinygif.metrics.tracker import BOX, Light, Mask, along, canvas_and_box, guesses, track
from tinygif.moving_mnist import BUNDLED, bundled_digits, load_digits, resize

WEIGHTS = Path(__file__).parent / "oracle.npz"
VIEW = 20  # pixels: the side of what the net sees, a digit in a box of 16 in it
PIECE = 50  # clips read at once, so that they stay in the processor's cache
BATCH = 512  # digits that are cut out, or that the net sees, at once

Digits = UInt8[np.ndarray, "n s s"]
"""Digits white on black, in boxes of s x s pixels as a clip draws them."""
Views = Float[np.ndarray, "n v v"]
"""Input of the net: digits scaled to boxes of 16 x 16 within 20 x 20 pixels, in [0, 1]."""


@dataclass(frozen=True)
class Reading:
    """What `read_digits` found in b clips: k digits in each, in no particular order."""

    digits: Int[np.ndarray, "b k"]
    """0 to 9; -1 where there is no such digit."""
    directions: Shaped[np.ndarray, "b k"]
    """A name of `DIRECTIONS`, or "none"."""
    speeds: Shaped[np.ndarray, "b k"]
    """A name of `SPEEDS`: "" is middle speed, and also that of a digit that stands still."""
    frame_digits: Int[np.ndarray, "b k f"]
    """The digit that each frame shows when it is read alone; -1 where it is dark."""
    centres: Float[np.ndarray, "b k f 2"]
    """Centre of the light near the path, as column and row; the clip's side is 1."""
    cutouts: Float[np.ndarray, "b k v v"]
    """The digit as the net sees it, averaged over frames, in [0, 1]."""
    features: Float[np.ndarray, "b k d"]
    """The net's last hidden layer, averaged over frames."""

    def __getitem__(self, index) -> "Reading":
        """The reading of the clips that an index selects."""
        return Reading(*(getattr(self, f.name)[index] for f in fields(self)))


def read_digits(
    clips: UInt8[np.ndarray, "b f h w c"], *, side: int | None = None, digits: int = 1
) -> Reading:
    """Look for one digit, or for up to two, in every clip.

    side: pixels of a digit's side, by default half of the clip's. digits: 1 or 2.
    """
    if clips.dtype != np.uint8 or clips.ndim != 5 or clips.shape[2] != clips.shape[3]:
        raise ValueError(
            f"expected square clips uint8 (b f h w c), got {clips.dtype} {clips.shape}: pass them "
            "as datasets and pipelines give them"
        )
    if digits not in (1, 2):
        raise ValueError(f"expected to look for 1 or 2 digits, got {digits}")
    starts = range(0, max(1, len(clips)), PIECE)
    parts = [_read_piece(clips[i : i + PIECE], side or clips.shape[2] // 2, digits) for i in starts]
    return Reading(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Reading)))


def _read_piece(clips: UInt8[np.ndarray, "b f h w c"], side: int, digits: int) -> Reading:
    size = clips.shape[2]
    canvas, box = canvas_and_box(size, side)
    light = small = clips.max(-1).astype(np.float32) / 255
    if size != canvas:
        shape = (*light.shape[:2], canvas, canvas)
        small = np.asarray(jax.image.resize(light, shape, "linear"))
    best, covers = track(small, box, digits)
    all_guesses, rows = guesses(clips.shape[1], canvas, box), np.arange(size) * canvas // size
    cuts = []
    for k in range(digits):
        hidden = np.delete(covers, k, axis=1).any(1)[:, :, rows][..., rows]
        middle = (all_guesses.corners[best[:, k]] + box / 2) * size / canvas
        cuts.append(view_along(light, hidden, middle, side))
    views, centres = (np.stack(part, 1) for part in zip(*cuts))
    found, lit = best >= 0, (views > 0.3).any((-1, -2))
    scores, features = classify(views.reshape(-1, VIEW, VIEW))
    scores = scores.reshape(*lit.shape, 10)
    over_frames = (scores * lit[..., None]).sum(2).argmax(-1)
    return Reading(
        digits=np.where(found & lit.any(2), over_frames, -1),
        directions=np.where(found, all_guesses.directions[best], "none"),
        speeds=np.where(found, all_guesses.speeds[best], ""),
        frame_digits=np.where(found[..., None] & lit, scores.argmax(-1), -1),
        centres=centres / size,
        cutouts=views.mean(2),
        features=features.reshape(*lit.shape, -1).mean(2),
    )


# ---- cutting out along a path ----------------------------------------------------------------


def cut_out(
    light: Light, hidden: Mask, corners: Int[np.ndarray, "b f 2"], side: int
) -> Float[np.ndarray, "b f side side"]:
    """The square at (column, row) of every frame, black where it reaches beyond the clip.

    A hidden pixel gets the mean of the frames that show it. If no frame does, it gets the minimum
    over frames: overlapping digits show the brighter pixel, so the hidden one is no brighter.
    """
    pad = ((0, 0), (0, 0), (side, side), (side, side))
    at = along(np.clip(corners, -side, light.shape[-1]) + side, side)
    x, shown = np.pad(light, pad)[at], ~np.pad(hidden, pad)[at]
    count = shown.sum(1, keepdims=True)
    mean = (x * shown).sum(1, keepdims=True) / np.maximum(count, 1)
    return np.where(shown, x, np.where(count, mean, x.min(1, keepdims=True)))


def view_along(
    light: Light, hidden: Mask, middle: Float[np.ndarray, "b f 2"], side: int
) -> tuple[Float[np.ndarray, "b f v v"], Float[np.ndarray, "b f 2"]]:
    """A digit of `side` pixels as the net sees it in every frame, and the centre of its light.

    middle: the path of the digit's middle, as column and row in pixels, as are the centres. The
    path is shifted, by the same amount in all frames, so that the light is in the middle.
    """
    wide = round(VIEW * side / BOX)
    corners = np.round(middle - wide / 2).astype(int)
    shift = offset(cut_out(light, hidden, corners, wide).mean(1))
    corners += np.round(shift).astype(int)[:, None]
    x = cut_out(light, hidden, corners, wide)
    centres = corners + wide / 2 + offset(x)
    if wide != VIEW:
        x = np.asarray(jax.image.resize(x, (*x.shape[:2], VIEW, VIEW), "linear"))
    return x.astype(np.float32), centres


def offset(image: Float[np.ndarray, "*b s s"]) -> Float[np.ndarray, "*b 2"]:
    """From the middle of an image to the centre of its light, in columns and rows; 0 if dark."""
    x = np.maximum(image - 0.3, 0)
    total = np.maximum(x.sum((-1, -2)), 1e-6)
    position = np.arange(x.shape[-1]) - (x.shape[-1] - 1) / 2
    return np.stack([x.sum(-2) @ position / total, x.sum(-1) @ position / total], -1)


def views_of(digits: Digits) -> Views:
    """Single digits, without a clip around them, as the net sees them."""
    parts, side = [], digits.shape[-1]
    for i in range(0, len(digits), BATCH):
        light = digits[i : i + BATCH, None].astype(np.float32) / 255
        middle = np.full((len(light), 1, 2), side / 2)
        parts.append(view_along(light, np.zeros(light.shape, bool), middle, side)[0][:, 0])
    return np.concatenate(parts)


# ---- the net ---------------------------------------------------------------------------------


class DigitNet(eqx.Module):
    """Three convolutions and two linear layers: from a view to 10 logits and 32 features."""

    convs: tuple[eqx.nn.Conv2d, ...]
    hidden: eqx.nn.Linear
    out: eqx.nn.Linear

    def __init__(self, *, key: Key[Array, ""]):
        *keys, hidden, out = jax.random.split(key, 5)
        sizes = zip((1, 24, 48), (24, 48, 64), keys)
        self.convs = tuple(eqx.nn.Conv2d(a, b, 3, padding=1, key=k) for a, b, k in sizes)
        self.hidden = eqx.nn.Linear(64 * (VIEW // 4) ** 2, 32, key=hidden)
        self.out = eqx.nn.Linear(32, 10, key=out)

    def __call__(self, x: Float[Array, "v v"]) -> tuple[Float[Array, "10"], Float[Array, " d"]]:
        x = jax.nn.relu(self.convs[0](x[None]))
        for conv in self.convs[1:]:
            x = rearrange(x, "c (h i) (w j) -> c h w i j", i=2, j=2).max((3, 4))
            x = jax.nn.relu(conv(x))
        features = jax.nn.relu(self.hidden(x.ravel()))
        return self.out(features), features


@functools.cache
def load_net() -> DigitNet:
    """The net with the weights that come with the package."""
    template = eqx.filter_eval_shape(DigitNet, key=jax.random.key(0))
    with np.load(WEIGHTS) as file:
        leaves = [jnp.asarray(file[name], jnp.float32) for name in file.files]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def classify(
    views: Views, net: DigitNet | None = None
) -> tuple[Float[np.ndarray, "n 10"], Float[np.ndarray, "n d"]]:
    """Log-probabilities of the ten digits, and features. By default with the net that ships."""
    net, parts = net or load_net(), []
    for i in range(0, max(1, len(views)), BATCH):
        x = views[i : i + BATCH]
        full = np.pad(x, [(0, BATCH - len(x)), (0, 0), (0, 0)])  # one shape, one compilation
        parts.append([np.asarray(part)[: len(x)] for part in _classify(net, full)])
    scores, features = (np.concatenate(part) for part in zip(*parts))
    return scores, features


@eqx.filter_jit
def _classify(net: DigitNet, views: Float[Array | np.ndarray, "n v v"]) -> tuple[Array, Array]:
    logits, features = jax.vmap(net)(jnp.asarray(views))
    return jax.nn.log_softmax(logits), features


# ---- its training ----------------------------------------------------------------------------


def augment(digits: Digits, rng: np.random.Generator) -> Views:
    """Digits as clips may show them: of other sizes, off the middle, blurred, dim, with noise."""
    x = views_of(resize(digits, int(rng.integers(10, 25))))[:, None]
    shift = np.round(rng.uniform(-1.6, 1.6, (len(x), 1, 2))).astype(int)
    x = cut_out(x, np.zeros(x.shape, bool), shift, VIEW)[:, 0]
    draw = functools.partial(rng.uniform, size=(len(x), 1, 1))
    x = draw(0.7, 1.1) * (x + draw(0, 0.6) * (blurred(x) - x))
    x += draw(0, 0.12) * rng.standard_normal(x.shape)
    return np.clip(x, 0, 1).astype(np.float32)


def blurred(x: Views) -> Views:
    """The mean of each 3 x 3 pixels."""
    return sum(np.roll(x, (i, j), (1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9


def train_net(sources: list[tuple[np.ndarray, np.ndarray]], steps: int = 6000) -> DigitNet:
    """Train the net on sources of digits uint8 (n s s) and labels (n,).

    Each batch comes from one source. Sources are chosen in proportion to their size, but each at
    least once for every nine batches of the first.
    """
    rng, net = np.random.default_rng(0), DigitNet(key=jax.random.key(0))
    share = np.maximum([len(labels) for _, labels in sources], len(sources[0][1]) / 9)
    optimizer = optax.adam(optax.cosine_onecycle_schedule(steps, 3e-3))
    state = optimizer.init(eqx.filter(net, eqx.is_array))

    @eqx.filter_jit
    def train_step(net: DigitNet, state: optax.OptState, x: Array, y: Array) -> tuple:
        def loss(net: DigitNet) -> Array:
            logits, _ = jax.vmap(net)(x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        updates, state = optimizer.update(eqx.filter_grad(loss)(net), state)
        return eqx.apply_updates(net, updates), state

    from tqdm import tqdm

    for _ in tqdm(range(steps), disable=not sys.stderr.isatty()):  # not a scan: slow on CPU
        digits, labels = sources[rng.choice(len(sources), p=share / share.sum())]
        chosen = rng.integers(len(labels), size=120)
        net, state = train_step(net, state, augment(digits[chosen], rng), labels[chosen])
    return net


def accuracy(digits: Digits, labels: Int[np.ndarray, " n"]) -> dict[str, float]:
    """Percent of digits that are read right: at several sides, and damaged at 16 pixels."""
    rng = np.random.default_rng(0)
    views = {f"{side} pixels": views_of(resize(digits, side)) for side in (10, 14, 16, 20, 24, 32)}
    clean = views["16 pixels"]
    for noise in (0.1, 0.2, 0.3):
        x = clean + noise * rng.standard_normal(clean.shape)
        views[f"noise {noise}"] = np.clip(x, 0, 1).astype(np.float32)
    views["blur 3 x 3"], views["blur twice"] = blurred(clean), blurred(blurred(clean))
    right = {name: classify(x)[0].argmax(-1) == labels for name, x in views.items()}
    return {name: 100 * float(values.mean()) for name, values in right.items()}


@dataclass(frozen=True)
class Options:
    """How often the oracle reads a digit right; with --train, after training it again."""

    train: bool = False
    mnist_dir: str | None = None
    """The folder of the four MNIST files; by default the cache, else a download."""


def main(options: Options) -> None:
    digits, labels, source = load_digits(options.mnist_dir)
    got = "the bundled ones: name another --mnist-dir"
    expect(source != BUNDLED, "MNIST's digits", got)
    if options.train:
        net = train_net([(digits, labels), bundled_digits(test=False)])
        arrays = [np.asarray(leaf, np.float16) for leaf in jax.tree.leaves(net)]
        with whole_file(WEIGHTS) as file:
            np.savez_compressed(file, *arrays)
        load_net.cache_clear()
    test_digits, test_labels, _ = load_digits(source, test=True)
    mnist = accuracy(test_digits, test_labels)
    bundled = accuracy(*bundled_digits(test=True))
    print(f"percent read right of {len(test_digits)} MNIST test digits, and of the bundled ones")
    print(*(f"{name:12} {mnist[name]:6.2f} {bundled[name]:6.2f}" for name in mnist), sep="\n")


if __name__ == "__main__":
    run_command("oracle", lambda: main(tyro.cli(Options, description=__doc__)))
