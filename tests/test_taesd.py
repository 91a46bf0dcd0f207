"""taesd.py: the public tiny autoencoder as a codec; its layout, PyTorch's numbers. Lesson 16."""

from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from test_train import fails
from tiny import CONFIG, call, flags

from tinygif import checkpoint, hub
from tinygif.autoencoder import CodecConfig
from tinygif.codec_training import load_taesd
from tinygif.errors import TinygifError
from tinygif.latents import CHUNK, decode_frames, normalize
from tinygif.taesd import TAESD, WEIGHTS

RNG = np.random.default_rng(0)
CLIP = RNG.integers(0, 256, (3, 16, 16, 3), np.uint8)


def layout() -> dict[str, tuple[int, ...]]:
    """Name and shape of every array in the hub's file, as its places in both lists say."""
    convs, blocks = {}, {}
    convs["encoder"] = {0: (64, 3, True), 2: (64, 64, False), 6: (64, 64, False),
                        10: (64, 64, False), 14: (4, 64, True)}  # fmt: skip
    blocks["encoder"] = (1, 3, 4, 5, 7, 8, 9, 11, 12, 13)
    convs["decoder"] = {0: (64, 4, True), 6: (64, 64, False), 11: (64, 64, False),
                        16: (64, 64, False), 18: (3, 64, True)}  # fmt: skip
    blocks["decoder"] = (2, 3, 4, 7, 8, 9, 12, 13, 14, 17)
    shapes = {}
    for part in convs:
        for i, (c_out, c_in, has_bias) in convs[part].items():
            shapes[f"{part}.layers.{i}.weight"] = (c_out, c_in, 3, 3)
            if has_bias:
                shapes[f"{part}.layers.{i}.bias"] = (c_out,)
        for i in blocks[part]:
            for j in (0, 2, 4):
                shapes[f"{part}.layers.{i}.conv.{j}.weight"] = (64, 64, 3, 3)
                shapes[f"{part}.layers.{i}.conv.{j}.bias"] = (64,)
    return shapes


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A file in the hub's layout with random weights."""
    arrays = {name: (RNG.standard_normal(shape) / 24).astype(np.float32)
              for name, shape in layout().items()}  # fmt: skip
    path = tmp_path_factory.mktemp("taesd") / WEIGHTS
    save_file(arrays, path)
    return path


@pytest.fixture(scope="module")
def codec(weights) -> TAESD:
    return load_taesd(weights, 3)


def test_every_array_of_the_file_is_read(codec, weights):
    with checkpoint.open_file(weights) as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}
    ours = checkpoint.named({"encoder": codec.encoder, "decoder": codec.decoder})
    assert len(ours) == len(arrays) == 2 * 10 * 6 + 14
    for name, array in ours.items():
        part, _, rest = name.partition(".")
        np.testing.assert_array_equal(array, arrays[f"{part}.layers.{rest}"], name)


@pytest.mark.parametrize("lead", [(), (2,)])
def test_shapes(codec, lead):
    assert codec.encode(CLIP).shape == codec.shape(3, 16) == (3, 4, 2, 2)
    decoded = codec.decode(np.zeros((*lead, 3, 4, 2, 2), np.float32))
    assert decoded.dtype == np.uint8 and decoded.shape == (*lead, 3, 16, 16, 3)


def test_normalize_gives_codes_mean_0_and_deviation_1(codec):
    ready = normalize(codec, CLIP[None])
    codes = np.asarray(ready.encode(CLIP))
    np.testing.assert_allclose(codes.mean((0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(codes.std((0, 2, 3)), 1, atol=1e-3)
    np.testing.assert_array_equal(ready.decode(codes), codec.decode(codec.encode(CLIP)))


def test_a_long_clip_is_decoded_some_frames_at_a_time(codec, monkeypatch):
    from tinygif import latents

    sizes, codes = [], RNG.standard_normal((2 * CHUNK + 3, 4, 1, 1)).astype(np.float32)
    monkeypatch.setattr(
        latents, "decode_frames", lambda c, z: sizes.append(len(z)) or decode_frames(c, z)
    )
    whole = codec.decode(codes)
    assert sizes == [CHUNK] * 3
    for i in (0, CHUNK, 2 * CHUNK + 2):
        np.testing.assert_array_equal(whole[i], codec.decode(codes[i : i + 1])[0])


def test_gray_clips_are_refused():
    with pytest.raises(TinygifError, match="3 channels for --codec taesd: add --channels 3, got 1"):
        CodecConfig("taesd").build(1, key=jax.random.key(0))


def test_another_file_is_refused(tmp_path, weights):
    path = tmp_path / WEIGHTS
    save_file({"encoder.layers.0.weight": np.zeros((64, 3, 3, 3), np.float32)}, path)
    with pytest.raises(TinygifError, match="missing decoder.layers.0.weight"):
        load_taesd(path, 3)
    path.write_bytes(b"not safetensors")
    with pytest.raises(TinygifError, match="cannot read"):
        load_taesd(path, 3)


COLOUR = replace(
    CONFIG, data=replace(CONFIG.data, channels=3), model=replace(CONFIG.model, patch=1)
)


@pytest.mark.slow
def test_a_run_on_its_code(weights, tmp_path):
    """The codec is in the checkpoint: sampling needs no other file."""
    folder, words = tmp_path / "run", [*flags(COLOUR), "--codec", weights.parent]
    assert call(*words, "--steps", 2, "--out", folder) == 0
    model, about = checkpoint.load_model(folder / checkpoint.MODEL)
    assert about.config.codec == CodecConfig("taesd", codec_steps=0)
    assert isinstance(model.codec, TAESD) and not np.allclose(model.codec.latent_std, 1)
    np.testing.assert_array_equal(
        model.codec.encoder[0].weight, load_taesd(weights, 3).encoder[0].weight
    )


def test_without_the_hub_the_sentence_says_what_to_fetch(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(hub, "SECONDS", 0.2)
    words = [*flags(COLOUR), "--codec", "taesd", "--steps", 1, "--out", tmp_path / "run"]
    says = fails(capsys, *words)
    assert f"expected {WEIGHTS} of madebyollin/taesd" in says and "hf download" in says


def test_the_numbers_are_those_of_pytorch(codec, weights):
    torch = pytest.importorskip("torch")
    peer = pytest.importorskip("diffusers").AutoencoderTiny()
    with checkpoint.open_file(weights) as file:
        arrays = {name: torch.tensor(file.get_tensor(name)) for name in file.keys()}
    peer.load_state_dict(arrays)
    x = jnp.asarray(RNG.uniform(-1, 1, (3, 32, 32)).astype(np.float32))
    z = codec.encode_frame(x)
    with torch.no_grad():
        theirs = peer.encode(torch.tensor(np.asarray(x))[None]).latents
        back = peer.decode(theirs).sample[0]
    np.testing.assert_allclose(z, theirs[0], atol=1e-5)
    np.testing.assert_allclose(eqx.filter_jit(codec.decode_frame)(z), back, atol=1e-5)
