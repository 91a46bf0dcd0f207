"""Small pretrained models, made from a formula, shared by the tests of towers and embeddings.

The names and shapes of their files are written out here, not taken from the package.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

WORDS = (
    "a an and not 0 1 2 3 4 5 6 7 8 9 zero one two three four five six seven eight nine moving "
    "moves going goes standing stands still up down left right slowly quickly fast"
).split()
TEXT = dict(
    hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=3,
    max_position_embeddings=21, vocab_size=320, layer_norm_eps=1e-5,
)  # fmt: skip
IMAGE = dict(
    hidden_size=30, intermediate_size=44, num_hidden_layers=2, num_attention_heads=5,
    image_size=21, patch_size=7, layer_norm_eps=1e-5, hidden_act="gelu",
)  # fmt: skip
BERT = dict(
    TEXT, model_type="bert", hidden_act="gelu", type_vocab_size=2, layer_norm_eps=1e-12
)  # fmt: skip
CLIP = dict(
    model_type="clip", projection_dim=20, vision_config=IMAGE,
    text_config=dict(TEXT, hidden_act="quick_gelu", projection_dim=20),
)  # fmt: skip
CONFIGS = {"bert": BERT, "clip": CLIP}
VIT_B_32 = dict(
    CLIP, projection_dim=512, text_config=dict(
        hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8,
        max_position_embeddings=77, vocab_size=49408, hidden_act="quick_gelu",
        layer_norm_eps=1e-5, eos_token_id=49407,
    ),
)  # fmt: skip
BASE = dict(
    model_type="bert", hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
    num_attention_heads=12, max_position_embeddings=512, vocab_size=28996, hidden_act="gelu",
    layer_norm_eps=1e-12, type_vocab_size=2,
)  # fmt: skip
"""The sizes of the real ones: CLIP's text tower (its image tower stays small) and BERT base."""


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array from its name: the same on every machine, of a size as weights have."""
    k = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    x = np.sin(sum(map(ord, name)) + 1.7 * k + 0.003 * k**2)
    if len(shape) > 1:
        return (2 * x / np.prod(shape[1:]) ** 0.5).astype(np.float32)
    return np.asarray(0.3 * x + name.endswith("weight"), np.float32)


def layer(prefix: str, names: list[str], norms: list[str], d: int, wide: int) -> dict[str, tuple]:
    """A layer's shapes: four matrices of attention, two of the perceptron, biases, two norms."""
    shapes = [(d, d)] * 4 + [(wide, d), (d, wide)]
    found = {f"{prefix}.{name}.weight": shape for name, shape in zip(names, shapes)}
    found |= {f"{prefix}.{name}.bias": shape[:1] for name, shape in zip(names, shapes)}
    return found | {f"{prefix}.{name}.{x}": (d,) for name in norms for x in ("weight", "bias")}


def clip_shapes(config: dict) -> dict[str, tuple]:
    names = [f"self_attn.{x}_proj" for x in ("q", "k", "v", "out")] + ["mlp.fc1", "mlp.fc2"]
    text, image = config["text_config"], config["vision_config"]
    d, e, p = text["hidden_size"], image["hidden_size"], image["patch_size"]
    positions = 1 + (image["image_size"] // p) ** 2
    found = {
        "text_model.embeddings.token_embedding.weight": (text["vocab_size"], d),
        "text_model.embeddings.position_embedding.weight": (text["max_position_embeddings"], d),
        "vision_model.embeddings.class_embedding": (e,),
        "vision_model.embeddings.patch_embedding.weight": (e, 3, p, p),
        "vision_model.embeddings.position_embedding.weight": (positions, e),
        "text_projection.weight": (config["projection_dim"], d),
        "visual_projection.weight": (config["projection_dim"], e),
        "logit_scale": (),
    }  # fmt: skip
    for name, size in (("text_model.final_layer_norm", d), ("vision_model.pre_layrnorm", e),
                       ("vision_model.post_layernorm", e)):  # fmt: skip
        found |= {f"{name}.weight": (size,), f"{name}.bias": (size,)}
    for part, sizes in (("text_model", text), ("vision_model", image)):
        for i in range(sizes["num_hidden_layers"]):
            found |= layer(f"{part}.encoder.layers.{i}", names, ["layer_norm1", "layer_norm2"],
                           sizes["hidden_size"], sizes["intermediate_size"])  # fmt: skip
    return found


def bert_shapes(config: dict) -> dict[str, tuple]:
    names = [f"attention.self.{x}" for x in ("query", "key", "value")]
    names += ["attention.output.dense", "intermediate.dense", "output.dense"]
    d, start = config["hidden_size"], "embeddings"
    found = {
        f"{start}.word_embeddings.weight": (config["vocab_size"], d),
        f"{start}.position_embeddings.weight": (config["max_position_embeddings"], d),
        f"{start}.token_type_embeddings.weight": (config["type_vocab_size"], d),
        f"{start}.LayerNorm.weight": (d,), f"{start}.LayerNorm.bias": (d,),
        "pooler.dense.weight": (d, d), "pooler.dense.bias": (d,),
    }  # fmt: skip
    for i in range(config["num_hidden_layers"]):
        found |= layer(f"encoder.layer.{i}", names, ["attention.output.LayerNorm",
                       "output.LayerNorm"], d, config["intermediate_size"])  # fmt: skip
    return found


def arrays(config: dict) -> dict[str, np.ndarray]:
    shapes = (bert_shapes if config["model_type"] == "bert" else clip_shapes)(config)
    return {name: value(name, shape) for name, shape in shapes.items()}


def tokenizer(size: int = 320, *, ends: bool = True):
    """Knows WORDS and w0, w1, ... up to `size` tokens; marks the end of a prompt if `ends`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS][:size]
    words += [f"w{i}" for i in range(size - len(words))]
    result = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    result.normalizer = normalizers.Lowercase()
    result.pre_tokenizer = pre_tokenizers.Whitespace()
    if ends:
        result.post_processor = processors.TemplateProcessing(
            "[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    return result


def write(folder: Path, config: dict, weights: dict[str, np.ndarray] | None = None) -> Path:
    """A folder with the three files of a model on the hub."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer().save(str(folder / "tokenizer.json"))
    save_file(arrays(config) if weights is None else weights, folder / "model.safetensors")
    return folder
