"""The data set that a config names: digits, shapes, sprites, or a folder's clips. Lesson 14."""

import copy
import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from tinygif.clips import ClipFolder, Settings, is_prepared, prepare_clips, read_report
from tinygif.codec import Pixels
from tinygif.config import PRESETS, Config, DataConfig
from tinygif.data import Dataset
from tinygif.errors import TinygifError, expect
from tinygif.latents import FrameCodec
from tinygif.moving_mnist import MovingMNIST
from tinygif.shapes import Shapes
from tinygif.sprites import Sprites
from tinygif.transformer import TransformerConfig
from tinygif.unet import UNetConfig

DATASETS = {"moving_mnist": MovingMNIST, "shapes": Shapes, "sprites": Sprites}
"""The data sets that are drawn. Any other name is taken as a folder of clips."""

OWN_FIELDS = {
    "digits": "moving_mnist", "digit_size": "moving_mnist", "hold_out": "moving_mnist",
    "mnist_dir": "moving_mnist", "sprites_dir": "sprites", "flip": "a folder of clips",
    "unconditional": "a folder of clips",
}  # fmt: skip
"""Fields that have an effect on one kind of data set only."""


def check_fields(data: DataConfig) -> None:
    """Refuse fields that would do nothing for the data set. Raises TinygifError."""
    kind = data.dataset if data.dataset in DATASETS else "a folder of clips"
    for field in dataclasses.fields(data):
        owner, value = OWN_FIELDS.get(field.name, kind), getattr(data, field.name)
        if owner != kind and value != field.default:
            raise TinygifError(
                f"expected {field.name} only for {owner}, got {value} for {data.dataset}, where "
                "it would do nothing: leave it out"
            )


def defaults(name: str) -> DataConfig:
    """The defaults of the data flags: moving_mnist is gray, all else is in colour.

    Sprites set size and frames; a folder that was prepared sets size, frames and fps.
    """
    if name == "sprites":
        return DataConfig(dataset=name, channels=3, size=64, frames=8)
    data = DataConfig(dataset=name, channels=1 if name == "moving_mnist" else 3)
    if name in DATASETS or not is_prepared(Path(name)):
        return data
    settings = read_report(Path(name))["settings"]
    fps = data.fps if settings["fps"] is None else settings["fps"]
    return replace(data, size=settings["size"], frames=settings["frames"], fps=fps)


SPRITES = UNetConfig(
    width=32, multipliers=(4, 8), levels=("text", "text"), middle=("space+text", "text"),
    patch=1, time_patch=8, pixel_shuffle=True, place_octaves=5,
)  # fmt: skip
"""A character stands where it is, so all its frames may be one group, and sines tell the network
the place; words say where a colour is, so every level attends to them."""


def preset_for(name: str, preset: str, digits: int = 1, model: str | None = None) -> Config:
    """A preset for a data set, with its own kind of model or another. Raises TinygifError.

    Sprites have long captions and a code of tiles. Two digits have more room than one, and their
    captions are read in parts.
    """
    if model == "transformer":
        config = preset_for(name, preset, digits)
        sprites, share = name == "sprites", 4 if preset == "tiny" else 2
        patch, frames = (2, 8) if sprites else (share, share)
        return replace(config, model=TransformerConfig(patch=patch, time_patch=frames))
    config = replace(PRESETS[preset], data=defaults(name))
    if name == "moving_mnist" and digits > 1:
        data = replace(config.data, digits=digits, size=48, digit_size=16)
        return replace(config, data=data, text=replace(config.text, parts=digits))
    if name != "sprites":
        return config
    text, codec = replace(config.text, max_tokens=40), replace(config.codec, codec="tiles")
    config = replace(config, codec=codec, text=text)
    if preset != "tiny":
        return config
    train = replace(config.train, minutes=15.0, batch_size=32, short_frames=None, ema=0.995)
    return replace(config, model=SPRITES, train=train)


def open_dataset(config: Config) -> tuple[Dataset, Dataset | None, Config]:
    """The training clips, the held-out clips, and the config with which to open both again.

    There are no held-out clips (None) in a folder of fewer than 40. Pictures of `images` are among
    the training clips. A folder that is not yet prepared is prepared into the cache; the config
    then names the folder there. For digits the config says where they were found, so that a resumed
    run trains on the same ones. Raises TinygifError.
    """
    dataset, held_out, config = open_clips(config)
    if config.data.images is None:
        return dataset, held_out, config
    mixed = WithImages(dataset, open_images(config), config)
    return mixed, held_out, replace(config, data=replace(config.data, images=mixed.folder))


class WithImages:
    """A data set in which a share of the short clips are pictures, repeated in all frames.

    A short clip is one group of frames, which the stem folds, so layers along time see nothing
    else (the joint training of Video Diffusion Models, Ho et al. 2022, section 3, masks attention
    over time to that end). Within the group a picture stands still, and so the model learns a
    little that things stand still; the more so the longer the groups are.
    """

    def __init__(self, clips: Dataset, images: ClipFolder, config: Config):
        self.clips, self.images = clips, images
        self.share, self.short = config.data.image_share, config.train.short_frames
        self.folder, self.size = str(images.folder), clips.size
        self.words = sorted({*clips.words, *images.words})
        self.prompts = clips.prompts
        self.about = (f"{clips.about}; {images.size} pictures of {images.folder}, each repeated in "
                      f"a group of {self.short} frames")  # fmt: skip

    def __getitem__(self, index: int) -> tuple[UInt8[np.ndarray, "f h w c"], str | None]:
        return self.clips[index]

    def example(
        self, index: int, frames: int
    ) -> tuple[UInt8[np.ndarray, "{frames} h w c"], str | None]:
        """A clip and its caption, or a picture and its caption if the clip is to be a short one."""
        rng = np.random.default_rng([index, 5])
        if frames != self.short or rng.random() >= self.share:
            return self.clips.example(index, frames)
        picture, caption = self.images.example(int(rng.integers(2**32)), 1)
        return picture.repeat(frames, axis=0), caption

    @property
    def captions(self) -> list[str]:
        """Every caption of both."""
        return [*self.clips.captions, *self.images.captions]


def in_codes(dataset: Dataset, codec: Pixels | FrameCodec) -> Dataset:
    """The data set with codes in place of clips, if its clips are files and the codec is learned.

    Clips that are drawn never repeat: their codes are computed in the training step.
    """
    if not isinstance(codec, FrameCodec):
        return dataset
    if isinstance(dataset, ClipFolder):
        return dataset.in_codes(codec)
    if isinstance(dataset, WithImages) and isinstance(dataset.clips, ClipFolder):
        parts, coded = [part.in_codes(codec) for part in (dataset.clips, dataset.images)], None
        if all(part.codes for part in parts):  # a batch cannot hold both clips and codes
            coded = copy.copy(dataset)
            coded.clips, coded.images = parts
        return coded or dataset
    return dataset


def open_images(config: Config) -> ClipFolder:
    """The folder of pictures of a config; prepared into the cache if it is not prepared yet."""
    folder = Path(config.data.images)
    expect(folder.is_dir(), "a folder of pictures for --images", str(folder))
    if not is_prepared(folder):
        folder = prepare_clips(folder, settings=Settings(config.data.size, 1))
    max_tokens = config.text.max_tokens if config.text.text == "words" else None
    return ClipFolder(folder, replace(config.data, dataset=str(folder), frames=1), max_tokens)


def open_clips(config: Config) -> tuple[Dataset, Dataset | None, Config]:
    """`open_dataset` without pictures."""
    data = config.data
    check_fields(data)
    if data.dataset in DATASETS:
        dataset = DATASETS[data.dataset](data)
        held_out = DATASETS[data.dataset](dataset.config, held_out=True)
        return dataset, held_out, replace(config, data=dataset.config)
    folder = Path(data.dataset)
    if not folder.is_dir():
        raise TinygifError(
            f"expected {', '.join(DATASETS)}, a folder of clips, or what `python -m tinygif.clips "
            f"prepare` made of other sources, got {data.dataset!r}"
            + (", which is a file" if folder.exists() else ", which is not there")
        )
    if not is_prepared(folder):
        folder = prepare_clips(folder, settings=Settings(data.size, data.frames))
    max_tokens = config.text.max_tokens if config.text.text == "words" else None
    dataset = ClipFolder(folder, data, max_tokens)
    held_out = ClipFolder(folder, data, max_tokens, held_out=True)
    return dataset, held_out if held_out.size else None, replace(config, data=dataset.config)
