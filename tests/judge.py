"""An independent judge of generated Moving MNIST clips: which digit is it, which way does it go?

    python tests/judge.py                                   # the ceiling: real clips only
    python tests/judge.py --checkpoint runs/mnist --count 180 --guidance 3 --json judged.json

The judge never saw the generator. A small classifier, trained on MNIST's training digits drawn
as clips draw them, reads every frame; a least-squares fit of bouncing paths names the motion.
"""

import argparse
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, UInt8

import tinygif
from tinygif.config import DataConfig
from tinygif.moving_mnist import NAMES, MovingMNIST, read_mnist

CACHE = Path.home() / ".cache" / "tinygif" / "judge-2.npz"  # count up when the training changes
DATA = Path(os.environ.get("TINYGIF_TEST_DATA", "../shared/data")) / "mnist"
SIDE, ROOM, CROP = 32, 16, 20  # pixels: a clip, where its digit moves, the classifier's view
SPEEDS = (0.5, 1.0, 2.0)  # pixels a frame along an axis
BRIGHT, LOST = 80.0, 2.0  # of 255: darker is background; pixels RMS: farther from all paths
HEADINGS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "up left": (-1, -1),
            "up right": (1, -1), "down left": (-1, 1), "down right": (1, 1), "still": (0, 0)}


def centres(frames: np.ndarray) -> np.ndarray:
    """Centre of the light above BRIGHT, as x and y: (n h w) in 0..255 to (n 2); nan if none."""
    light = np.maximum(frames.astype(np.float32) - BRIGHT, 0)
    total = np.where(light.any((1, 2)), light.sum((1, 2)), np.nan)
    x, y = np.arange(frames.shape[2]), np.arange(frames.shape[1])
    return np.stack([light.sum(1) @ x / total, light.sum(2) @ y / total], 1)


def crop(frames: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """(n h w) to (n 1 20 20) about the rounded centre (n 2), black outside of the frame."""
    padded = np.pad(frames.astype(np.float32), ((0, 0), (CROP, CROP), (CROP, CROP)))
    start = np.round(np.nan_to_num(centre) + CROP / 2 + 0.5).astype(int)
    x, y = (start[:, :, None] + np.arange(CROP)).transpose(1, 0, 2)
    return padded[np.arange(len(frames))[:, None, None], y[:, :, None], x[:, None, :]][:, None]


def new_reader(key: Array) -> eqx.nn.Sequential:
    """Three convolutions and two linear layers: (1 20 20) in [0, 1] to 10 logits."""
    keys, relu = jax.random.split(key, 5), eqx.nn.Lambda(jax.nn.relu)
    conv = [eqx.nn.Conv2d(a, b, 3, padding=1, key=k)
            for a, b, k in zip((1, 24, 48), (24, 48, 64), keys)]
    pool = eqx.nn.Lambda(lambda x: x.reshape(len(x), x.shape[1] // 2, 2, -1, 2).max((2, 4)))
    return eqx.nn.Sequential([
        conv[0], relu, pool, conv[1], relu, pool, conv[2], relu, eqx.nn.Lambda(jnp.ravel),
        eqx.nn.Linear(64 * 25, 128, key=keys[3]), relu, eqx.nn.Linear(128, 10, key=keys[4])])


def augment(digits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 (n 20 20) to (n 1 20 20), as clips may show them: of other sizes, dim, with noise."""
    side = int(rng.integers(14, 21))
    x = jax.image.resize(digits.astype(np.float32), (len(digits), side, side), "linear")
    x = np.pad(np.asarray(x), ((0, 0), (6, 6), (6, 6)))
    x = crop(x / 255, centres(x) + rng.uniform(-1.5, 1.5, (len(x), 2)))
    near = sum(np.roll(x, (i, j), (2, 3)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9
    blur, light, noise = rng.uniform((0, 0.7, 0), (0.6, 1.1, 0.12), (len(x), 1, 1, 1, 3)).T
    x = light.T * (x + blur.T * (near - x)) + noise.T * rng.standard_normal(x.shape)
    return np.clip(x, 0, 1).astype(np.float32)


def train(folder: Path, epochs: int = 4, batch: int = 120) -> eqx.nn.Sequential:
    """The classifier, trained on the training digits: under two minutes on one core."""
    digits, labels = read_mnist(folder, test=False)
    rng, model = np.random.default_rng(0), new_reader(jax.random.key(0))
    picks = np.concatenate([rng.permutation(len(digits)) for _ in range(epochs)]).reshape(-1, batch)
    optimizer = optax.adam(optax.cosine_onecycle_schedule(len(picks), 3e-3))

    @eqx.filter_jit
    def step(model, state, x, y):
        def loss(model):
            return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(x), y).mean()
        updates, state = optimizer.update(eqx.filter_grad(loss)(model), state)
        return eqx.apply_updates(model, updates), state
    state = optimizer.init(eqx.filter(model, eqx.is_array))
    for pick in picks:  # not a scan: convolutions in one are slow on CPU
        model, state = step(model, state, augment(digits[pick], rng), labels[pick])
    return model


def load_judge(mnist_dir: Path = DATA) -> Callable:
    """`judge` with the classifier kept in CACHE, where none is trained on mnist_dir first."""
    net, rest = eqx.partition(new_reader(jax.random.key(0)), eqx.is_array)
    if not CACHE.exists():
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        part = CACHE.with_name(f"part{os.getpid()}.npz")  # renamed when whole: runs may overlap
        with jax.numpy_dtype_promotion("standard"):  # optax needs it where tests are strict
            np.savez(part, *jax.tree.leaves(eqx.filter(train(mnist_dir), eqx.is_array)))
        part.replace(CACHE)
    net = jax.tree.unflatten(jax.tree.structure(net), map(jnp.asarray, np.load(CACHE).values()))
    logits = jax.vmap(eqx.combine(net, rest))
    return partial(judge, jax.jit(lambda x: jax.nn.log_softmax(logits(x))))


def judge(reader: Callable, clips: UInt8[np.ndarray, "b f h w c"]) -> dict[str, np.ndarray]:
    """digit (b,), digit_per_frame (b f), direction (b,), speed (b,) in pixels of a 32-pixel clip
    a frame, misfit (b,) in pixels. Black reads -1; "none" is the direction if no path fits."""
    b, f, h, w, _ = clips.shape
    if clips.dtype != np.uint8 or h != w or h % SIDE:
        raise ValueError(f"expected uint8 clips (b f h w c), h = w a multiple of {SIDE}, got "
                         f"{clips.dtype} {clips.shape}: convert or resize them first")
    frames = np.asarray(clips).max(-1).reshape(b * f, SIDE, h // SIDE, SIDE, -1).mean((2, 4))
    track = centres(frames)
    seen = ~np.isnan(track[:, 0]).reshape(b, f)
    views = np.split(crop(frames / 255, track), range(1024, b * f, 1024))
    scores = np.concatenate([reader(x) for x in views]).reshape(b, f, 10)
    return dict(motion(track.reshape(b, f, 2)),
                digit=np.where(seen.any(1), (scores * seen[..., None]).sum(1).argmax(-1), -1),
                digit_per_frame=np.where(seen, scores.argmax(-1), -1))


def motion(track: np.ndarray) -> dict[str, np.ndarray]:
    """direction, speed and misfit (b,) of the best path for tracks (b f 2), nan where unseen.

    The digit's centre lies anywhere in its box. No path bounces in the clip's first quarter: one
    that bounced at once could not be told from its opposite."""
    seen = ~np.isnan(track[:, None, :, :1])
    count, track = np.maximum(seen.sum(2), 1), np.nan_to_num(track)
    error = {}  # of the best start: per speed along an axis (b axis)
    for speed in {s * sign for s in SPEEDS for sign in (-1, 0, 1)}:
        ahead = np.arange(min(abs(speed) * track.shape[1] / 4, ROOM), ROOM + 0.5, 0.5)
        path = (ahead if speed < 0 else ROOM - ahead)[:, None] + speed * np.arange(track.shape[1])
        path = ROOM - np.abs(path % (2 * ROOM) - ROOM)  # reflected at both walls
        gap = (track[:, None] - path[..., None]) * seen  # (b start f axis)
        error[speed] = ((gap**2).sum(2) - gap.sum(2) ** 2 / count).min(1)
    paths = [(name, s) for name, v in HEADINGS.items() for s in (SPEEDS if any(v) else (0.0,))]
    errors = np.stack([error[HEADINGS[name][0] * s][:, 0] + error[HEADINGS[name][1] * s][:, 1]
                       for name, s in paths], 1)
    misfit = np.sqrt(errors.min(1).clip(0) / count[:, 0, 0])
    best = np.where(seen.any((1, 2, 3)) & (misfit < LOST), errors.argmin(1), -1)
    names, speeds = map(np.array, zip(*paths, ("none", np.nan)))
    return dict(direction=names[best], speed=speeds[best], misfit=misfit)


def wanted_of(caption: str) -> tuple[int, str]:
    """The digit and direction that a caption of one digit names."""
    digit = next(i for i, name in enumerate(NAMES) if {str(i), name} & set(caption.split()))
    return digit, " ".join(w for w in caption.split() if w in HEADINGS) or "still"


def report(title: str, judged: dict[str, np.ndarray], captions: list[str]) -> dict[str, dict]:
    """Print and return the percentages right with their 95% Wilson intervals."""
    digits, headings = map(np.array, zip(*map(wanted_of, captions)))
    digit, direction = judged["digit"] == digits, judged["direction"] == headings
    result, n, z = {}, len(captions), 1.96
    for name, right in dict(digit=digit, direction=direction, both=digit & direction).items():
        p = right.mean()
        middle, half = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
        low, high = (100 * (middle + side * half) / (1 + z**2 / n) for side in (-1, 1))
        result[name] = dict(percent=100 * p, low=low, high=high, n=n)
        print(f"{title:10} {name:9} {100 * p:5.1f}%  [{low:.1f}, {high:.1f}]  n {n}")
    return result


def without_time(model: eqx.Module) -> eqx.Module:
    """The model with what it learned along time taken out: its last projections are zero."""
    def cut(path: tuple, leaf: object) -> object:
        name = jax.tree_util.keystr(path)
        return leaf * 0 if ".conv_time.mix" in name or ".time.out" in name else leaf
    return jax.tree_util.tree_map_with_path(cut, model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, kind in {"checkpoint": Path, "mnist-dir": Path, "count": int, "seed": int,
                       "steps": int, "guidance": float, "solver": str, "json": Path}.items():
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--no-time", action="store_true", help="with time layers switched off")
    parser.set_defaults(mnist_dir=DATA, count=180, seed=0)
    args = parser.parse_args()
    verdict = load_judge(args.mnist_dir)
    data = MovingMNIST(DataConfig(mnist_dir=str(args.mnist_dir), hold_out=False), test=True)
    clips, captions = zip(*(data[i] for i in range(args.count)))
    result = {"real": report("real", verdict(np.stack(clips)), captions)}
    if args.checkpoint:
        gif = tinygif.load(args.checkpoint)
        gif.model = without_time(gif.model) if args.no_time else gif.model
        motions = ["standing still" if name == "still" else f"moving {name}" for name in HEADINGS]
        pairs = [(i % 10, motions[i % 9]) for i in range(args.count)]  # all 90 in turn
        captions = np.array([f"a{'n' * (digit == 8)} {digit} {words}" for digit, words in pairs])
        judged = verdict(np.concatenate([
            gif(captions[i:i + 64].tolist(), seed=args.seed + i, steps=args.steps,
                guidance=args.guidance, solver=args.solver)
            for i in range(0, args.count, 64)]))
        result["generated"] = report("generated", judged, captions)
        held = [tuple(pair) for pair in getattr(gif, "held_out", ())]
        unseen = np.array([wanted_of(caption) in held for caption in captions])
        if unseen.any():
            judged = {name: values[unseen] for name, values in judged.items()}
            result["held_out"] = report("held out", judged, captions[unseen])
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
