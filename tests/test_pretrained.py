"""pretrained.py: the towers give PyTorch's numbers, and files that do not fit are refused by name.

Golden numbers are transformers' own, of `CLIPTextModelWithProjection` and `BertModel` on the
weights of towers.py; where PyTorch is there, they are compared anew, at full size too. Lesson 10.
"""

import copy
import json
from functools import cache
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import towers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.flax import save_file as jax_save_file
from safetensors.numpy import save_file

from tinygif.errors import TinygifError
from tinygif.towers.pretrained import (
    ACTIVATIONS,
    CLIP_SIZES,
    POOLS,
    load_tower,
    read_config,
    text_sizes,
)

IDS = np.array([1, 50, 7, 211, 90, 2, 0, 0], np.int32)
MASK = np.arange(8) < 6
# of IDS: at (5, 0) and (0, 5) after the embedding and each layer; then of the states; pooled
GOLDEN = {
    "clip": [
        0.025398, 0.371472, 5.930116, 2.444645, 13.779444, 4.227203, 18.064474, 5.515799,
        4.030326, 0.716246, 0.032013, -0.123314, 1.021569,
    ],
    "bert": [
        0.436072, -0.27129, -0.654657, 0.356629, 0.670982, 1.808264, 1.361485, 0.965042,
        1.361485, 0.965042, 1.139881, -2.199339, -0.012875,
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("towers")
    return {kind: towers.write(root / kind, config) for kind, config in towers.CONFIGS.items()}


@cache
def tower(folder: Path):
    return load_tower(folder)


kinds = pytest.mark.parametrize("kind", ["clip", "bert"])
run = eqx.filter_jit(lambda model, ids, mask, pool: model(ids, mask, pool))
batched = eqx.filter_jit(lambda model, ids, mask: jax.vmap(model)(ids, mask))
tokens = st.lists(st.integers(3, 319), min_size=1, max_size=6)


def prompt(ids: list[int], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Between the marks of start and end, padded."""
    ids = [1, *ids, 2]
    return np.array(ids + [0] * (n - len(ids)), np.int32), np.arange(n) < len(ids)


# ---- the numbers -----------------------------------------------------------------------------


@kinds
def test_every_layer_has_pytorchs_numbers(folders, kind):
    model = tower(folders[kind])
    hidden, text = eqx.filter_jit(lambda m, *x: (m.hidden_states(*x), m(*x)))(model, IDS, MASK)
    got = [x[i, j] for x in (*hidden, text.states) for i, j in ((5, 0), (0, 5))]
    got += list(text.pooled[:3])
    np.testing.assert_allclose(np.array(got), GOLDEN[kind], rtol=1e-5, atol=2e-5)


@given(tokens)
@kinds
def test_padding_changes_nothing(folders, kind, ids):
    model = tower(folders[kind])
    short, long = (run(model, *prompt(ids, n), POOLS[kind][0]) for n in (8, 13))
    np.testing.assert_allclose(long.states[:8], short.states, atol=1e-5)
    np.testing.assert_allclose(long.pooled, short.pooled, atol=1e-5)
    assert not long.states[len(ids) + 2 :].any() and long.mask.sum() == len(ids) + 2


@given(tokens, tokens)
@kinds
def test_batching_changes_nothing(folders, kind, one, other):
    model = tower(folders[kind])
    pair = [np.stack(x) for x in zip(prompt(one, 8), prompt(other, 8))]
    both = batched(model, *pair)
    for i in range(2):
        alone = run(model, pair[0][i], pair[1][i], POOLS[kind][0])
        np.testing.assert_allclose(both.states[i], alone.states, atol=1e-5)
        np.testing.assert_allclose(both.pooled[i], alone.pooled, atol=1e-5)


def test_the_pooled_vector_is_the_end_the_start_or_the_mean(folders):
    ids, mask = prompt([5, 9, 30], 8)
    clip, bert = (tower(folders[kind]) for kind in ("clip", "bert"))
    text = run(clip, ids, mask, "last")
    np.testing.assert_allclose(text.pooled, clip.projection.weight @ text.states[4], atol=1e-5)
    for model in (clip, bert):
        text = run(model, ids, mask, "mean")
        np.testing.assert_allclose(text.pooled, text.states[:5].mean(0), atol=1e-5)
    np.testing.assert_allclose(run(bert, ids, mask, "first").pooled, text.states[0], atol=1e-5)


def test_clip_looks_back_only_and_bert_both_ways(folders):
    """Which of 8 tokens' states change with the third."""
    for kind, wanted in (("clip", [0, 0, 1, 1, 1, 1]), ("bert", [1, 1, 1, 1, 1, 1])):
        model, other = tower(folders[kind]), IDS.copy()
        other[2] = 8
        one, two = (run(model, x, MASK, "mean").states for x in (IDS, other))
        assert (np.abs(one - two).max(1) > 1e-4).tolist() == [bool(x) for x in [*wanted, 0, 0]]


def test_activations_at_known_places():
    x = jnp.array([-1.0, 2.0])
    wanted = {
        "quick_gelu": [-0.1542, 1.9357], "gelu": [-0.1587, 1.9545], "gelu_new": [-0.1588, 1.9546],
        "gelu_pytorch_tanh": [-0.1588, 1.9546], "relu": [0, 2],
    }  # fmt: skip
    assert wanted.keys() == ACTIVATIONS.keys()
    for name, y in wanted.items():
        np.testing.assert_allclose(ACTIVATIONS[name](x), y, atol=1e-4)


# ---- files -----------------------------------------------------------------------------------


def same(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


def test_older_names_and_halves_are_read_alike(folders, tmp_path):
    plain = towers.arrays(towers.BERT)
    old = {
        f"bert.{name}".replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): x
        for name, x in plain.items()
    }
    old["cls.predictions.bias"] = old["bert.embeddings.position_ids"] = np.zeros(3, np.float32)
    model = load_tower(towers.write(tmp_path / "old", towers.BERT, old))
    assert same(model, tower(folders["bert"]))
    half = {name: x.astype(np.float16) for name, x in plain.items()}
    model = load_tower(towers.write(tmp_path / "half", towers.BERT, half))
    assert {x.dtype.name for x in jax.tree.leaves(eqx.filter(model, eqx.is_array))} == {"float32"}
    np.testing.assert_allclose(model.embedding, tower(folders["bert"]).embedding, atol=2e-3)


@kinds
def test_what_does_not_fit_is_refused_by_name(kind, tmp_path):
    config = towers.CONFIGS[kind]
    first = {"clip": "text_model.encoder.layers.0.mlp.fc1.weight",
             "bert": "encoder.layer.0.output.dense.weight"}[kind]  # fmt: skip
    whole = towers.arrays(config)
    folder = towers.write(tmp_path, config)
    changes = {
        f"missing {first}": {k: x for k, x in whole.items() if k != first},
        f"not expected {first}s": whole | {first + "s": whole[first]},
        rf"{first} has shape \(2, 3\), expected \(": whole | {first: np.zeros((2, 3), "f4")},
        "and [0-9]+ more": {k: x for k, x in whole.items() if "layer" not in k},
    }
    for message, weights in changes.items():
        save_file(weights, folder / "model.safetensors")
        with pytest.raises(TinygifError, match=message):
            load_tower(folder)
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(TinygifError, match="cannot read the checkpoint"):
        load_tower(folder)


@pytest.mark.parametrize(("change", "message"), [
    (dict(shape=[2**40, 24]), "cannot read the checkpoint"),  # 96 TiB
    (dict(shape=[2**62, 2**62]), "cannot read the checkpoint"),
    (dict(shape=[0, 24]), r"has shape \(0, 24\)"),
    (dict(data_offsets=[0, 2**42]), "cannot read the checkpoint"),
    (dict(dtype="I32"), "only numbers of .* got .*'I32'"),
    (dict(dtype="F64"), "cannot read the checkpoint"),
])  # fmt: skip
def test_a_header_that_does_not_fit_its_file_is_refused(folders, tmp_path, change, message):
    """Of one array of a file that is right otherwise."""
    folder = towers.write(tmp_path, towers.BERT)
    path = folder / "model.safetensors"
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    entry = header["embeddings.word_embeddings.weight"]
    if change.get("shape") == [0, 24]:
        change = change | {"data_offsets": [entry["data_offsets"][0]] * 2}
        header["filling"] = dict(entry)  # so that the file is as long as it says
    entry |= change
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
    with pytest.raises(TinygifError, match=message):
        load_tower(folder)


def test_numbers_of_sixteen_bits_are_read(folders, tmp_path):
    """Those of Google's kind, which numpy does not have."""
    plain = {name: jnp.asarray(x) for name, x in towers.arrays(towers.BERT).items()}
    folder = towers.write(tmp_path, towers.BERT)
    jax_save_file({k: x.astype("bfloat16") for k, x in plain.items()}, folder / "model.safetensors")
    model = load_tower(folder)
    np.testing.assert_allclose(model.embedding, tower(folders["bert"]).embedding, rtol=0.01)


def test_sizes_come_from_config_json(tmp_path):
    towers.write(tmp_path, {"model_type": "clip"}, {})
    assert text_sizes(read_config(tmp_path), tmp_path).items() >= CLIP_SIZES.items()  # ViT-B/32
    old = {"model_type": "clip", "projection_dim": 33, "text_config": {"hidden_size": 24},
           "text_config_dict": {"hidden_size": 32}}  # fmt: skip
    sizes = text_sizes(old, tmp_path)
    assert (sizes["hidden_size"], sizes["projection_dim"]) == (32, 33)
    alone = {"model_type": "clip_text_model", "hidden_size": 64, "projection_dim": 48}
    towers.write(tmp_path, alone, {})
    sizes = text_sizes(read_config(tmp_path), tmp_path)
    assert (sizes["hidden_size"], sizes["projection_dim"]) == (64, 48)


@pytest.mark.parametrize(("change", "message"), [
    (dict(model_type="t5"), "type clip or bert .*'t5'"),
    (dict(hidden_act="swoosh"), "'swoosh', expected one of .*gelu"),
    (dict(num_attention_heads=5), "no multiple of num_attention_heads"),
    (dict(hidden_size=None), "hidden_size is missing"),
    (dict(position_embedding_type="relative_key"), "absolute positions"),
    (dict(is_decoder=True), "only encoders"),
    (dict(num_hidden_layers=3000), "num_hidden_layers is 3000, .* from 1 to 128"),
    (dict(vocab_size=10**12), "vocab_size is 1000000000000, .* from 1 to"),
    (dict(hidden_size=24.0), "hidden_size is 24.0, expected a whole number"),
    (dict(hidden_size="24" * 99), "hidden_size is '24242.*, expected a whole number"),
    (dict(num_attention_heads=0), "num_attention_heads is 0, .* from 1 to"),
    (dict(num_hidden_layers=True), "num_hidden_layers is True"),
    (dict(layer_norm_eps="1e-12"), "layer_norm_eps is '1e-12', expected a number between"),
    (dict(layer_norm_eps=float("nan")), "layer_norm_eps is nan"),
    (dict(hidden_act=["gelu"]), "hidden_act is .'gelu'., expected one of"),
    (dict(type_vocab_size=None), "type_vocab_size is missing"),
    (dict(model_type="clip", text_config=[24]), "a table text_config .* got .*list"),
    (dict(model_type="clip", text_config_dict=dict(hidden_size=-1)), "hidden_size is -1"),
    (dict(model_type="clip", projection_dim=0), "projection_dim is 0"),
])  # fmt: skip
def test_other_models_are_refused_with_a_sentence(tmp_path, change, message):
    with pytest.raises(TinygifError, match=message):
        text_sizes(towers.BERT | change, tmp_path)


VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.just([1]))
NAMES = st.sampled_from([*towers.BERT, *towers.CLIP, "text_config_dict", "is_decoder"])


@given(st.dictionaries(NAMES, VALUES | st.dictionaries(NAMES, VALUES)))
@kinds
def test_whatever_a_config_says_a_tower_can_be_built_or_a_sentence_says_why_not(
    tmp_path_factory, kind, changes
):
    folder = tmp_path_factory.mktemp("config")
    (folder / "config.json").write_text(json.dumps(towers.CONFIGS[kind] | changes))
    try:
        sizes = text_sizes(read_config(folder), folder)
    except TinygifError:
        return
    assert sizes["hidden_size"] % sizes["num_attention_heads"] == 0
    assert 1 <= sizes["num_hidden_layers"] <= 128 and 1 <= sizes["vocab_size"] <= 2**21


def test_a_folder_without_a_config_is_refused(tmp_path):
    for text in ("", "{", "[]", "{}", '{"model_type": 3}', "[" * 10**5):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(TinygifError, match="expected a model's config.json in"):
            read_config(tmp_path)


# ---- PyTorch itself --------------------------------------------------------------------------


def compare(folder: Path, config: dict, ids: np.ndarray, mask: np.ndarray) -> None:
    """Every layer, the states and CLIP's pooled vector against transformers."""
    torch = pytest.importorskip("torch")
    from transformers import BertModel, CLIPTextModelWithProjection

    kind = config["model_type"]
    load = {"clip": CLIPTextModelWithProjection, "bert": BertModel}[kind].from_pretrained
    theirs, found = load(folder, output_loading_info=True)
    assert not found["missing_keys"] and not found["mismatched_keys"]
    with torch.inference_mode():
        out = theirs.eval()(torch.tensor(ids), attention_mask=torch.tensor(mask.astype(int)),
                            output_hidden_states=True)  # fmt: skip
    model = load_tower(folder)
    both = eqx.filter_jit(lambda m, *x: (jax.vmap(m.hidden_states)(*x), jax.vmap(m)(*x)))
    hidden, text = both(model, ids, mask)
    pairs = list(zip(hidden, out.hidden_states, strict=True))
    pairs.append((text.states, out.last_hidden_state))
    for ours, other in pairs:
        np.testing.assert_allclose(np.asarray(ours)[mask], other.numpy()[mask], atol=1e-4)
    if kind == "clip":
        np.testing.assert_allclose(text.pooled, out.text_embeds.numpy(), atol=1e-4)


def sentences(count: int, n: int, words: int) -> tuple[np.ndarray, np.ndarray]:
    """Random ids of all lengths; the last is the largest, by which transformers finds the end."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, words - 1, (count, n)).astype(np.int32)
    ends = np.linspace(2, n, count).astype(int)
    ids[np.arange(count), ends - 1] = words - 1
    mask = np.arange(n) < ends[:, None]
    return np.where(mask, ids, 0), mask


@pytest.mark.parametrize(("kind", "act", "d", "heads", "depth"), [
    ("clip", "quick_gelu", 24, 3, 3), ("clip", "gelu", 10, 1, 1), ("clip", "relu", 36, 6, 2),
    ("bert", "gelu", 24, 3, 3), ("bert", "gelu_new", 10, 2, 1), ("bert", "relu", 36, 4, 2),
])  # fmt: skip
def test_odd_small_sizes_agree_with_pytorch(tmp_path, kind, act, d, heads, depth):
    config = copy.deepcopy(towers.CONFIGS[kind])
    inside = config["text_config"] if kind == "clip" else config
    inside |= dict(hidden_act=act, hidden_size=d, num_attention_heads=heads,
                   num_hidden_layers=depth, eos_token_id=319)  # fmt: skip
    compare(towers.write(tmp_path, config), config, *sentences(4, 11, 320))


@pytest.mark.slow
@kinds
def test_full_size_agrees_with_pytorch(tmp_path, kind):
    pytest.importorskip("torch")
    config, words, n = (towers.VIT_B_32, 49408, 77) if kind == "clip" else (towers.BASE, 28996, 40)
    compare(towers.write(tmp_path, config), config, *sentences(3, n, words))
    (tmp_path / "model.safetensors").unlink()


def test_sizes_of_the_real_models_are_those_of_transformers():
    configs = pytest.importorskip("transformers")
    theirs = configs.CLIPTextConfig()
    assert {name: getattr(theirs, name) for name in CLIP_SIZES} == CLIP_SIZES
