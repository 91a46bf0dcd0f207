"""The same architecture dimensions for both: a training step and a denoising step, A B A B.

    pip install torch video-diffusion-pytorch      # named here only: no dependency of tinygif's
    python tests/peers/step.py --repeat 5 --out step.json

tinygif's preset `base` against `Unet3D` of video-diffusion-pytorch, at the peer's width,
multipliers, frames, pixels and batch; on the GPU where both see one (then in bfloat16), else on the
same cores in float32. What differs is design: tinygif's stem folds 2x2 pixels into channels, it has
no attention over 16x16 pixels, and more weights. Ratios are taken pair by pair and are above 1
where tinygif is faster; `--patch 1` leaves the folding out.
Memory is what a training step holds beside weights, gradients, optimizer and average: tinygif's by
the compiled program, the peer's the tensors that its forward pass saves (on a GPU, its peak).
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import torch
from peer import Peer

from tinygif import bench, sampler, training
from tinygif.config import BASE, Config, DataConfig, named_keys
from tinygif.pipeline import Pipeline

SHAPES = {
    "width 64, 5 frames of 3x32x32, batch 2": (64, 5, 3, 2),
    "width 32, 16 frames of 1x32x32, batch 8": (32, 16, 1, 8),
}
WORDS = [f"word{i}" for i in range(60)]
GUIDANCE = 2.0
CUDA = torch.cuda.is_available() and jax.default_backend() == "gpu"
DEVICE = "cuda" if CUDA else "cpu"


class Ours:
    """Preset base at the peer's dimensions."""

    def __init__(self, width: int, frames: int, channels: int, size: int, *, patch: int):
        config = replace(
            Config(),
            data=DataConfig(size=32, frames=frames, channels=channels),
            model=replace(BASE.model, width=width, patch=patch),
            diffusion=BASE.diffusion,
            sample=replace(BASE.sample, guidance=GUIDANCE),
            train=replace(BASE.train, batch_size=size, bfloat16=CUDA),
        )
        model, self.key = config.init(len(WORDS) + 2, key=named_keys(0).init), named_keys(0).train
        self.state, self.weights = training.init_state(config, model), training.count_weights(model)
        self.batch = bench.noise(config, len(WORDS) + 2)
        pipeline = Pipeline(training.copy_arrays(model), config, WORDS)
        self.sampling = bench.sampling_inputs(pipeline, WORDS[0], size)
        step = training.make_step(config, training.make_mesh())
        self.program = step.lower(self.state, self.batch, self.key).compile()

    def train(self) -> jax.Array:
        self.state, logs = self.program(self.state, self.batch, self.key)
        return logs["loss"]

    def denoise(self) -> jax.Array:
        return sampler.sample_step(*self.sampling)[0]

    def memory(self) -> float:
        """Megabytes of a training step, less the gradients."""
        return self.program.memory_analysis().temp_size_in_bytes / 1e6 - (
            4e-6 * self.weights
        )


class Theirs(Peer):
    """The peer with a batch of noise; in mixed precision on a GPU."""

    def __init__(self, width: int, frames: int, channels: int, size: int, *, compiled: bool):
        super().__init__(width, frames=frames, size=32, channels=channels, conditions=64,
                         timesteps=1000, device=DEVICE)  # fmt: skip
        self.video = torch.rand(size, channels, frames, 32, 32, device=DEVICE)
        self.cond = torch.rand(size, 64, device=DEVICE)
        self.mixed = partial(torch.autocast, DEVICE, dtype=torch.bfloat16, enabled=CUDA)
        if compiled:
            self.unet.compile()

    def loss(self, video: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        with self.mixed():
            return super().loss(video, cond)

    def train(self) -> float:
        return self.step(self.video, self.cond)

    @torch.inference_mode()
    def denoise(self) -> float:
        t = torch.full((len(self.video),), 500, device=DEVICE)
        with self.mixed():
            x = self.diffusion.p_sample(self.video, t, cond=self.cond, cond_scale=GUIDANCE)
        return x.mean().item()

    def memory(self) -> float:
        """Megabytes that the forward pass saves, or the GPU's peak less what stays."""
        if CUDA:
            torch.cuda.reset_peak_memory_stats()
            self.train()
            return torch.cuda.max_memory_allocated() / 1e6 - 16e-6 * self.weights
        own = {p.untyped_storage().data_ptr() for p in self.diffusion.parameters()}
        kept = {}

        def pack(x: torch.Tensor) -> torch.Tensor:
            kept[x.untyped_storage().data_ptr()] = (x.untyped_storage().nbytes(), x)
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            loss = self.loss(self.video, self.cond)
        del loss
        return sum(size for place, (size, _) in kept.items() if place not in own) / 1e6


def compare(name: str, shape: tuple, repeat: int, patch: int, compiled: bool) -> dict:
    """Seconds of both in turn, ratios pair by pair, megabytes."""
    ours, peers = Ours(*shape, patch=patch), {"eager": Theirs(*shape, compiled=False)}
    if compiled:
        peers["torch.compile"] = Theirs(*shape, compiled=True)
    row = {"weights": {"tinygif": ours.weights, "peer": peers["eager"].weights}}
    for what in ("train", "denoise"):
        calls: dict[str, Callable] = {"tinygif": getattr(ours, what)}
        calls |= {kind: getattr(peer, what) for kind, peer in peers.items()}
        times = bench.in_turn(calls, repeat)
        row[what] = {kind: bench.spread(1e3 * value) for kind, value in times.items()}
        for kind in peers:
            row[what][f"ratio, {kind}"] = bench.spread(times[kind] / times["tinygif"])
    row["MB"] = {"tinygif": ours.memory(), "peer": peers["eager"].memory()}
    return {name: row}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--patch", type=int, default=BASE.model.patch, help="of tinygif's stem")
    parser.add_argument("--compiled", action="store_true", help="torch.compile as well: minutes")
    parser.add_argument("--out", type=Path, default=Path("step.json"))
    args = parser.parse_args()
    result = {"device": f"{DEVICE}, {torch.get_num_threads()} threads of PyTorch"}
    for name, shape in SHAPES.items():
        result |= compare(name, shape, args.repeat, args.patch, args.compiled)
        args.out.write_text(json.dumps(result, indent=1))
    print(bench.show(result), f"\nwrote {args.out}", sep="\n")


if __name__ == "__main__":
    main()
