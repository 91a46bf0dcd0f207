"""`Unet3D` and `GaussianDiffusion` of video-diffusion-pytorch, with its trainer's Adam.

    pip install torch video-diffusion-pytorch      # named here only: no dependency of tinygif's
"""

import torch
from video_diffusion_pytorch import GaussianDiffusion, Unet3D


class Peer:
    """Everything by its own defaults, but for the shape of clips and the steps of diffusion."""

    def __init__(
        self, dim: int, *, frames: int, size: int, channels: int, conditions: int, timesteps: int,
        device: str = "cpu", seed: int = 0,
    ):  # fmt: skip
        torch.manual_seed(seed)
        self.unet = Unet3D(dim=dim, channels=channels, cond_dim=conditions).to(device)
        self.weights = sum(parameter.numel() for parameter in self.unet.parameters())
        self.diffusion = GaussianDiffusion(
            self.unet, image_size=size, num_frames=frames, channels=channels, timesteps=timesteps
        ).to(device)
        self.adam = torch.optim.Adam(self.diffusion.parameters(), lr=1e-4)

    def loss(self, video: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        """Of clips (b, c, f, h, w) from 0 to 1, and what is told of them, (b, conditions)."""
        return self.diffusion(video, cond=cond)

    def step(self, video: torch.Tensor, cond: torch.Tensor) -> float:
        """A step of training."""
        loss = self.loss(video, cond)
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        return loss.item()
