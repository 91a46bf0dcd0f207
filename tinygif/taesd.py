"""The Tiny AutoEncoder of Stable Diffusion as a codec: 8 x 8 pixels to 4 numbers. Lesson 16.

TAESD (Bohan 2023, github.com/madebyollin/taesd) was distilled from the autoencoder of Stable
Diffusion. Its weights are public, 10 MB, in the layout of diffusers' AutoencoderTiny. The parts of
the network here have the names and places that they have there, so that `codec_training.load_taesd`
can fill them in: a codec that needs no training, for clips of 256 pixels made from codes of 32.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from tinygif.codec import Pixels
from tinygif.errors import expect
from tinygif.latents import FrameCodec

HUB = "madebyollin/taesd"
WEIGHTS = "diffusion_pytorch_model.safetensors"
"""The file of weights in the hub's folder."""
WIDTH, LATENT = 64, 4


class Conv(eqx.Module):
    """A 3 x 3 convolution with zeros around the image, its weights as PyTorch lays them out."""

    weight: Float[Array, "c_out c_in 3 3"]
    bias: Float[Array, " c_out"] | None
    stride: int = eqx.field(static=True)

    def __init__(
        self, c_in: int, c_out: int, *, stride: int = 1, bias: bool = True, key: Key[Array, ""]
    ):
        self.weight = jax.random.normal(key, (c_out, c_in, 3, 3)) / (3 * c_in**0.5)
        self.bias, self.stride = jnp.zeros(c_out) if bias else None, stride

    def __call__(self, x: Float[Array, "c h w"]) -> Float[Array, "c_out h2 w2"]:
        steps, pad = (self.stride, self.stride), ((1, 1), (1, 1))
        y = jax.lax.conv_general_dilated(x[None], self.weight, steps, pad)[0]
        return y if self.bias is None else y + self.bias[:, None, None]


class Relu(eqx.Module):
    """`max(x, 0)`."""

    def __call__(self, x: Float[Array, "c h w"]) -> Float[Array, "c h w"]:
        return jax.nn.relu(x)


class Double(eqx.Module):
    """The image with every pixel repeated 2 x 2."""

    def __call__(self, x: Float[Array, "c h w"]) -> Float[Array, "c 2*h 2*w"]:
        return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


class ReluBlock(eqx.Module):
    """`relu(x + conv(x))`, conv being three convolutions with relu in between."""

    conv: list[eqx.Module]

    def __init__(self, *, key: Key[Array, ""]):
        first, second, third = (Conv(WIDTH, WIDTH, key=k) for k in jax.random.split(key, 3))
        self.conv = [first, Relu(), second, Relu(), third]

    def __call__(self, x: Float[Array, "c h w"]) -> Float[Array, "c h w"]:
        y = x
        for layer in self.conv:
            y = layer(y)
        return jax.nn.relu(x + y)


class TAESD(FrameCodec):
    """The codec of TAESD, for clips in colour. It sees frames in 0..1."""

    encoder: list[eqx.Module]
    decoder: list[eqx.Module]
    latent_mean: Float[Array, " z"]
    latent_std: Float[Array, " z"]
    pixels: Pixels
    fold: ClassVar[int] = 8

    def __init__(self, channels: int, *, key: Key[Array, ""]):
        expect(channels == 3, "3 channels for --codec taesd: add --channels 3", channels)
        keys = iter(jax.random.split(key, 40))
        conv = lambda *sizes, **more: Conv(*sizes, **more, key=next(keys))  # noqa: E731
        blocks = lambda count: [ReluBlock(key=next(keys)) for _ in range(count)]  # noqa: E731
        self.encoder = [conv(3, WIDTH), *blocks(1)]
        for _ in range(3):
            self.encoder += [conv(WIDTH, WIDTH, stride=2, bias=False), *blocks(3)]
        self.encoder += [conv(WIDTH, LATENT)]
        self.decoder = [conv(LATENT, WIDTH), Relu()]
        for _ in range(3):
            self.decoder += [*blocks(3), Double(), conv(WIDTH, WIDTH, bias=False)]
        self.decoder += [*blocks(1), conv(WIDTH, 3)]
        self.latent_mean, self.latent_std = jnp.zeros(LATENT), jnp.ones(LATENT)
        self.pixels = Pixels(channels)

    def encode_frame(self, x: Float[Array, "c h w"]) -> Float[Array, "z h2 w2"]:
        x = (x + 1) / 2
        for layer in self.encoder:
            x = layer(x)
        return x

    def decode_frame(self, z: Float[Array, "z h2 w2"]) -> Float[Array, "c h w"]:
        z = 3 * jnp.tanh(z / 3)
        for layer in self.decoder:
            z = layer(z)
        return 2 * z - 1
