"""clip_score.py: the image tower gives PyTorch's numbers, and its score tells clips apart.

Lesson 18.
"""

import json

import equinox as eqx
import jax
import numpy as np
import pytest
import towers
from PIL import Image

from tinygif.errors import TinygifError
from tinygif.metrics.clip_score import (
    CLIP_IMAGE,
    IMAGE_SIZES,
    OTHER_ARRAYS,
    ClipImage,
    ClipScore,
    prepare_frames,
)
from tinygif.towers.pretrained import load_weights

PROMPTS = ["a 7 moving left", "an 8 standing still", "a 3"]
# at (5, 0) and (0, 5) after the embedding and each layer, then the vector: transformers' CLIPModel
GOLDEN = [
    0.479755, -1.382677, 1.002975, -0.79551, -2.222108, -3.98326, 2.605945, -0.167648, 1.59507,
]  # fmt: skip
K = np.arange(3 * 21 * 21).reshape(3, 21, 21)
IMAGE = np.sin(1.3 * K + 0.01 * K**2).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return towers.write(tmp_path_factory.mktemp("towers") / "clip", towers.CLIP)


@pytest.fixture(scope="module")
def score(folder):
    return ClipScore(str(folder))


def clips(seed: int = 0, c: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (3, 5, 16, 16, c), np.uint8)


def test_every_layer_has_pytorchs_numbers(score):
    hidden, vector = eqx.filter_jit(lambda m, x: (m.hidden_states(x), m(x)))(score.tower, IMAGE)
    got = [x[i, j] for x in hidden for i, j in ((5, 0), (0, 5))] + list(vector[:3])
    np.testing.assert_allclose(np.array(got), GOLDEN, rtol=1e-5, atol=2e-5)


def test_a_missing_array_is_named(folder, tmp_path):
    weights = towers.arrays(towers.CLIP)
    del weights["vision_model.pre_layrnorm.bias"]
    other = towers.write(tmp_path, towers.CLIP, weights)
    with pytest.raises(TinygifError, match="missing vision_model.pre_layrnorm.bias"):
        ClipScore(str(other))


def test_models_without_an_image_tower_are_refused(tmp_path):
    text = dict(towers.TEXT, model_type="clip_text_model", projection_dim=20)
    weights = {k: x for k, x in towers.arrays(towers.CLIP).items() if k.startswith("text")}
    alone = towers.write(tmp_path / "clip", text, weights)
    with pytest.raises(TinygifError, match="CLIP model with an image tower"):
        ClipScore(str(alone))
    with pytest.raises(TinygifError, match="text_pool of mean or first"):
        ClipScore(str(towers.write(tmp_path / "bert", towers.BERT)))


@pytest.mark.parametrize(("change", "message"), [
    (dict(patch_size=0), "patch_size is 0, .* from 1 to"),
    (dict(image_size=22), "image_size is no multiple of patch_size"),
    (dict(image_size=10**9), "image_size is 1000000000, .* from 1 to"),
    (dict(num_hidden_layers=3000), "num_hidden_layers is 3000"),
    ([1], "a table vision_config .* got .*list"),
])  # fmt: skip
def test_an_image_tower_that_cannot_be_built_is_refused(tmp_path, change, message):
    vision = towers.IMAGE | change if isinstance(change, dict) else change
    folder = towers.write(tmp_path, towers.CLIP)
    (folder / "config.json").write_text(json.dumps(towers.CLIP | {"vision_config": vision}))
    with pytest.raises(TinygifError, match=message):
        ClipScore(str(folder))


@pytest.mark.parametrize("c", [1, 3])
def test_images_are_prepared_as_clip_saw_them(c):
    """Large enough for no resizing, the middle is cut out; values by CLIP's mean and deviation."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 21, 27, c), np.uint8)
    got = prepare_frames(frames, 21)
    assert got.shape == (2, 3, 21, 21) and got.dtype == np.float32
    middle = np.broadcast_to(frames[:, :, 3:24], (2, 21, 21, 3)) / 255
    mean, deviation = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    wanted = ((middle - mean) / deviation).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_images_are_resized_bicubically():
    frames = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)
    picture = Image.fromarray(frames[0]).resize((21, 21), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(
        prepare_frames(frames, 21),
        prepare_frames(np.asarray(picture)[None], 21),
    )


def test_the_score_is_the_cosine_of_frames_and_prompt(score):
    batch = clips()
    got = score(batch, PROMPTS)
    assert got.shape == (3, 5) and (np.abs(got) <= 1).all() and got.std() > 1e-3
    image = np.asarray(eqx.filter_jit(score.tower)(prepare_frames(batch[1, 2:3], score.side)[0]))
    text = score.embeddings.batch(PROMPTS[1:2]).pooled[0]
    wanted = image @ text / np.linalg.norm(image) / np.linalg.norm(text)
    np.testing.assert_allclose(got[1, 2], wanted, atol=1e-5)


def test_clips_and_prompts_go_together(score):
    batch, order = clips(c=3), [2, 0, 1]
    got = score(batch, PROMPTS)
    other = score(batch[order], [PROMPTS[i] for i in order])
    np.testing.assert_allclose(other, got[order], atol=1e-5)
    assert np.abs(score(batch, PROMPTS[::-1]) - got)[0].max() > 1e-3


def test_scores_agree_with_pytorch(folder, score):
    torch = pytest.importorskip("torch")
    from transformers import CLIPModel

    batch = clips(1, 3)
    ids = [score.embeddings.tokenizer.encode(prompt).ids for prompt in PROMPTS]
    model = CLIPModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        images = torch.tensor(prepare_frames(batch.reshape(15, 16, 16, 3), score.side))
        image_vectors = model.visual_projection(model.vision_model(images).pooler_output)
        states = [model.text_model(torch.tensor([x])).last_hidden_state[0, -1] for x in ids]
        text_vectors = model.text_projection(torch.stack(states))
    images, texts = (
        torch.nn.functional.normalize(x, dim=-1).numpy() for x in (image_vectors, text_vectors)
    )
    wanted = np.einsum("bfd,bd->bf", images.reshape(3, 5, -1), texts)
    np.testing.assert_allclose(score(batch, PROMPTS), wanted, atol=1e-4)


def test_the_sizes_left_out_are_those_of_vit_b_32(tmp_path):
    tower = eqx.filter_eval_shape(ClipImage, IMAGE_SIZES, key=jax.random.key(0))
    assert tower.patches.shape == (768, 3, 32, 32) and tower.positions.shape == (50, 768)
    assert len(tower.layers) == 12 and tower.projection.weight.shape == (512, 768)
    with pytest.raises(TinygifError, match="cannot read the checkpoint"):
        load_weights(tower, tmp_path / "none", CLIP_IMAGE, OTHER_ARRAYS)
