"""The same minutes for both: tinygif's default run, and the PyTorch package of the same idea.

    pip install torch video-diffusion-pytorch      # named here only: no dependency of tinygif's
    python tests/peers/minutes.py --minutes 2 5 10 15 --mnist-dir DIR --out minutes.json

Same clips, batches and cores, one after the other, read by the same oracle. The peer is told what a
caption says as a vector: digit, direction and speed, one-hot each. Its diffusion takes `timesteps`
steps in training and sampling alike, so these are few; everything else is its own default. Its
learning rate is constant, so it is trained once, for the longest time, and sampled once, at its
end: that takes as long again. tinygif's rate falls to zero in the minutes given, so it is trained
anew for each.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from peer import Peer

import tinygif
from tinygif.config import TINY, DataConfig
from tinygif.data import Slice, read_batch
from tinygif.metrics import COLUMNS, judge, make_captions, parse_caption, shares
from tinygif.moving_mnist import DIRECTIONS, SPEEDS, MovingMNIST

ROOT = Path(__file__).parents[2]
SLOTS = [*range(10), *DIRECTIONS, *(f"speed {name}" for name in SPEEDS)]


def vector(caption: str) -> np.ndarray:
    """What a caption of one digit says, one-hot."""
    ((digit, direction, speed),) = parse_caption(caption)
    parts = {digit, direction, f"speed {speed}"}
    return np.array([slot in parts for slot in SLOTS], np.float32)


def vectors(captions: list[str]) -> torch.Tensor:
    return torch.from_numpy(np.stack([vector(text) for text in captions]))


@torch.inference_mode()
def sample(peer: Peer, captions: list[str], guidance: float) -> np.ndarray:
    """The peer's clips uint8 (b, f, h, w, c) for captions."""
    video = peer.diffusion.sample(
        cond=vectors(captions), cond_scale=guidance, batch_size=len(captions)
    )
    return (video.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 4, 1).numpy()


def train_peer(args: argparse.Namespace, dim: int, data: DataConfig) -> list[dict]:
    """Rows for each of the minutes."""
    dataset, rows = MovingMNIST(data), []
    peer = Peer(dim, frames=data.frames, size=data.size, channels=data.channels,
                conditions=len(SLOTS), timesteps=args.timesteps, seed=args.seed)  # fmt: skip
    captions = make_captions(args.peer_count, 1, data, args.seed)
    name = f"video-diffusion-pytorch, dim {dim}, {peer.weights / 1e6:.1f} M weights"
    step, spent = 0, 0.0
    for minutes in sorted(args.minutes):
        while spent < 60 * minutes:
            began = time.time()
            where = Slice(step * args.batch, args.batch, data.frames)
            clips, texts = read_batch(dataset, args.seed, where)
            video = torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float() / 255
            loss = peer.step(video, vectors(texts))
            step, spent = step + 1, spent + time.time() - began
        rows.append(dict(who=name, minutes=minutes, steps=step, loss=loss))
        print(f"{name}, {minutes:g} minutes, {step} steps: loss {loss:.3f}", flush=True)
    rows[-1] |= row_of(sample(peer, captions, args.guidance), captions, data)
    print(line(rows[-1]), flush=True)
    return rows


def train_ours(args: argparse.Namespace, minutes: float, data: DataConfig) -> dict:
    """The row of a run of train.py, which counts its compilation and its sample grids too."""
    run = Path(args.out).with_suffix("") / f"{minutes:g}"
    words = ["--dataset", "moving_mnist", "--minutes", f"{minutes:g}", "--out", str(run)]
    words += ["--seed", str(args.seed), "--mnist-dir", data.mnist_dir]
    subprocess.run([sys.executable, str(ROOT / "train.py"), *words], check=True)
    pipeline, captions = tinygif.load(run), make_captions(args.count, 1, data, args.seed)
    row = row_of(pipeline(captions, seed=args.seed).array, captions, data)
    row.update(who="tinygif, 5.7 M weights", minutes=minutes)
    row["steps"] = json.loads((run / "log.jsonl").read_text().splitlines()[-1])["step"]
    print(line(row), flush=True)
    return row


def row_of(clips: np.ndarray, captions: list[str], data: DataConfig) -> dict:
    return shares(judge(clips, captions, data).right, COLUMNS)


def line(row: dict) -> str:
    cells = (row[name] for name in COLUMNS)
    right = ", ".join(f"{c['percent']:.0f} [{c['low']:.0f}, {c['high']:.0f}]" for c in cells)
    return f"{row['who']}, {row['minutes']:g} minutes, {row['steps']} steps: {right}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, nargs="+", default=[2, 5, 10, 15])
    parser.add_argument("--dims", type=int, nargs="*", default=[24, 64], help="the peer's widths")
    parser.add_argument("--skip-ours", action="store_true")
    parser.add_argument("--mnist-dir", default="bundled")
    parser.add_argument("--count", type=int, default=180, help="clips that are read of a run")
    parser.add_argument("--peer-count", type=int, default=9, help="the same of the peer's")
    parser.add_argument("--timesteps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=2.0, help="the peer's own default")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("minutes.json"))
    args = parser.parse_args()
    data = DataConfig(**{**vars(TINY.data), "mnist_dir": args.mnist_dir})
    rows = [] if args.skip_ours else [train_ours(args, m, data) for m in args.minutes]
    for dim in args.dims:
        rows += train_peer(args, dim, data)
    args.out.write_text(json.dumps(rows, indent=1))
    print(f"percent right: {', '.join(COLUMNS)}; wrote {args.out}")


if __name__ == "__main__":
    main()
