"""Captions through a text tower: tinygif's JAX and transformers' PyTorch, the same weights.

    pip install torch                     # named here only: no dependency of tinygif's
    python tests/peers/encode.py                          # a tower of BERT base's size
    python tests/peers/encode.py --kind clip --captions 200

Random weights of full size are written to a folder that is deleted at the end. Each framework takes
all cores that the process may have, one after the other, in batches of its own: tinygif's by
length, PyTorch's `--batch` captions sorted by length and padded to the longest of their batch. Also
measured: the memory that is private to the process, at its largest while the weights are loaded.
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

from tinygif import embeddings
from tinygif.config import DataConfig
from tinygif.moving_mnist import MovingMNIST
from tinygif.pretrained import load_tower


def captions(count: int) -> list[str]:
    """Different sentences about one or two digits."""
    data, found = MovingMNIST(DataConfig(digits=2, mnist_dir="bundled")), {}
    for i in range(100 * count):
        if len(found) == count:
            break
        found[data[i][1]] = None
    return list(found)


def timed(work: Callable[[], object], times: int = 3) -> tuple[float, object]:
    """The least of some wall times; the first, which compiles, is left out."""
    result, least = work(), np.inf
    for _ in range(times):
        began = time.perf_counter()
        result = work()
        least = min(least, time.perf_counter() - began)
    return least, result


def private_memory() -> int:
    """Bytes of this process that no file stands behind (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))


def peak(work: Callable[[], object]) -> tuple[int, object]:
    """How much private memory grew at most while it worked."""
    before, most, done = private_memory(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            most[0] = max(most[0], private_memory())

    thread = threading.Thread(target=watch)
    thread.start()
    result = work()
    done.set()
    thread.join()
    return max(most[0], private_memory()) - before, result


def theirs(folder: Path, kind: str, ids: list[tuple[int, ...]], size: int) -> Callable[[], dict]:
    import torch
    from transformers import BertModel, CLIPTextModelWithProjection

    model = {"clip": CLIPTextModelWithProjection, "bert": BertModel}[kind].from_pretrained(folder)
    model.eval()

    def work() -> dict:
        rows, order = {}, sorted(ids, key=len)
        for i in range(0, len(order), size):
            some = order[i : i + size]
            mask = np.arange(len(some[-1])) < np.array([[len(x)] for x in some])
            padded = np.zeros(mask.shape, np.int64)
            padded[mask] = np.concatenate(some)
            with torch.inference_mode():
                seen = torch.from_numpy(mask.astype(int))
                out = model(torch.from_numpy(padded), attention_mask=seen)
            for key, states in zip(some, out.last_hidden_state.numpy()):
                rows[key] = states[: len(key)]
        return rows

    return work


def ours(tower: object, pool: str, ids: list[tuple[int, ...]]) -> Callable[[], dict]:
    grain, size = embeddings.GRAIN, embeddings.BATCH

    def work() -> dict:
        rows, groups = {}, {}
        for key in ids:
            groups.setdefault(-(-len(key) // grain) * grain, []).append(key)
        for n, group in groups.items():
            for i in range(0, len(group), size):
                some = group[i : i + size]
                rows.update(zip(some, embeddings.encode(tower, pool, some, n)))
        return rows

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kind", choices=["bert", "clip"], default="bert")
    parser.add_argument("--captions", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32, help="PyTorch's")
    args = parser.parse_args()
    config = {"bert": BASE, "clip": VIT_B_32}[args.kind]
    read = tokenizer()
    ids = [tuple(read.encode(text).ids) for text in captions(args.captions)]
    with tempfile.TemporaryDirectory() as name:
        folder = write(Path(name), config, arrays(config))
        size = (folder / "model.safetensors").stat().st_size
        memory, tower = peak(lambda: load_tower(folder))
        pool = {"bert": "mean", "clip": "last"}[args.kind]
        mine, rows = timed(ours(tower, pool, ids))
        other, wanted = timed(theirs(folder, args.kind, ids, args.batch))
    d = config.get("hidden_size", 512)
    apart = max(np.abs(rows[k][: len(k) * d].reshape(-1, d) - wanted[k]).max() for k in ids)
    print(json.dumps({
        "captions": len(ids), "tokens": sum(map(len, ids)), "tinygif seconds": mine,
        "pytorch seconds": other, "ratio": mine / other, "largest difference": float(apart),
        "weights MB": size / 1e6, "private memory while loading MB": memory / 1e6,
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
