"""Captions through a text tower: tinygif's JAX and transformers' PyTorch, the same weights.

    pip install torch                     # named here only: no dependency of tinygif's
    python tests/peers/encode.py                          # a tower of BERT base's size
    python tests/peers/encode.py --kind clip --captions 200

Random weights of full size are written to a folder that is deleted at the end. One after the other,
each framework takes all cores that the process may have. Batches differ: tinygif's hold captions of
about the same length; PyTorch's hold `--batch` captions, sorted by length and padded to the longest
of their batch. The largest private memory while the weights are loaded is measured, too.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from towers import BASE, VIT_B_32, arrays, tokenizer, write

from tinygif.config import DataConfig
from tinygif.moving_mnist import MovingMNIST
from tinygif.towers import load_tower
from tinygif.towers.embeddings import BATCH, PAD_MULTIPLE, encode_prompts


def captions(count: int) -> list[str]:
    """Different sentences about one or two digits."""
    data, found = MovingMNIST(DataConfig(digits=2, mnist_dir="bundled")), {}
    for i in range(100 * count):
        if len(found) == count:
            break
        found[data[i][1]] = None
    return list(found)


def timed(work: Callable[[], object], times: int = 3) -> tuple[float, object]:
    """The shortest of `times` runs in seconds, after one that compiles; and the result."""
    result, shortest = work(), np.inf
    for _ in range(times):
        began = time.perf_counter()
        result = work()
        shortest = min(shortest, time.perf_counter() - began)
    return shortest, result


def private_memory() -> int:
    """Bytes of this process that are not mapped from a file (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))


def peak(work: Callable[[], object]) -> tuple[int, object]:
    """Bytes by which private memory grew at most during the work; and the result."""
    before, largest, done = private_memory(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            largest[0] = max(largest[0], private_memory())

    thread = threading.Thread(target=watch)
    thread.start()
    result = work()
    done.set()
    thread.join()
    return max(largest[0], private_memory()) - before, result


def run_pytorch(
    folder: Path, kind: str, ids: list[tuple[int, ...]], size: int
) -> Callable[[], dict]:
    import torch
    from transformers import BertModel, CLIPTextModelWithProjection

    model = {"clip": CLIPTextModelWithProjection, "bert": BertModel}[kind].from_pretrained(folder)
    model.eval()

    def work() -> dict:
        rows, order = {}, sorted(ids, key=len)
        for i in range(0, len(order), size):
            batch = order[i : i + size]
            mask = np.arange(len(batch[-1])) < np.array([[len(x)] for x in batch])
            padded = np.zeros(mask.shape, np.int64)
            padded[mask] = np.concatenate(batch)
            with torch.inference_mode():
                visible = torch.from_numpy(mask.astype(int))
                out = model(torch.from_numpy(padded), attention_mask=visible)
            for key, states in zip(batch, out.last_hidden_state.numpy()):
                rows[key] = states[: len(key)]
        return rows

    return work


def run_tinygif(tower: object, pool: str, ids: list[tuple[int, ...]]) -> Callable[[], dict]:
    def work() -> dict:
        rows, groups = {}, {}
        for key in ids:
            length = -(-len(key) // PAD_MULTIPLE) * PAD_MULTIPLE
            groups.setdefault(length, []).append(key)
        for length, group in groups.items():
            for i in range(0, len(group), BATCH):
                batch = group[i : i + BATCH]
                rows.update(zip(batch, encode_prompts(tower, pool, batch, length)))
        return rows

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kind", choices=["bert", "clip"], default="bert")
    parser.add_argument("--captions", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32, help="PyTorch's")
    args = parser.parse_args()
    config = {"bert": BASE, "clip": VIT_B_32}[args.kind]
    words = tokenizer()
    ids = [tuple(words.encode(text).ids) for text in captions(args.captions)]
    with tempfile.TemporaryDirectory() as name:
        folder = write(Path(name), config, arrays(config))
        size = (folder / "model.safetensors").stat().st_size
        memory, tower = peak(lambda: load_tower(folder))
        pool = {"bert": "mean", "clip": "last"}[args.kind]
        ours, rows = timed(run_tinygif(tower, pool, ids))
        theirs, wanted = timed(run_pytorch(folder, args.kind, ids, args.batch))
    d = config.get("hidden_size", 512)
    apart = max(np.abs(rows[k][: len(k) * d].reshape(-1, d) - wanted[k]).max() for k in ids)
    print(json.dumps({
        "captions": len(ids), "tokens": sum(map(len, ids)), "tinygif seconds": ours,
        "pytorch seconds": theirs, "ratio": ours / theirs, "largest difference": float(apart),
        "weights MB": size / 1e6, "private memory while loading MB": memory / 1e6,
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
