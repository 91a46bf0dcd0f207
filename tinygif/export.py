"""A web page that draws, with no server behind it: the networks as ONNX files, and one script.

    python -m tinygif.export runs/NAME page/
    python -m http.server --directory page       # or put the folder on any web space

Whoever opens the page types a sentence and sees the noise become a GIF, computed in their own
browser by ONNX Runtime. The page's script (page/page.js) has the tokenizer, the noise, the solver
and guidance; a seed gives the GIF that `sample.py` makes of it. Lesson 17.
"""

import base64
import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from einops import rearrange
from jaxtyping import Array, Float

from tinygif import pipeline as pipelines
from tinygif.clips import ClipFolder, is_prepared
from tinygif.codec import TILE, Palette, Pixels, Tiles
from tinygif.datasets import DATASETS
from tinygif.diffusion import to_x0
from tinygif.errors import TinygifError, expect, run_command
from tinygif.files import check_room, write_whole
from tinygif.latents import FrameCodec
from tinygif.pipeline import Pipeline
from tinygif.resnet import Conv1x1, Conv3x3
from tinygif.text import FILLERS, Condition, KnownFrames, Text

PAGE = Path(__file__).parent / "page"
NETWORK = "https://cdn.jsdelivr.net/npm/"
RUNTIME = {
    "onnx": ("onnxruntime-web@1.30.0/dist/ort.wasm.bundle.min.mjs",
             "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG"),
    "wasm": ("onnxruntime-web@1.30.0/dist/ort-wasm-simd-threaded.wasm",
             "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM"),
    "gif": ("gifenc@1.0.3/dist/gifenc.esm.js",
            "sha384-P7/5O5/b1yQQnqgcqktjBKyP5irxx5L0p6ft3eD1i3ASjVm03RkbLOmZkKr6qFHb"),
}  # fmt: skip
"""What the page needs besides our own files: packages of npm, and their hashes (SRI)."""
STEPS, PALETTE_STEPS = 4, 8
"""Denoising steps of the page by default: digits need no more (diary, section 6), pixel art has
fewer specks with twice as many."""


# ---- networks as ONNX files --------------------------------------------------------------------


class Plain3x3(eqx.Module):
    """A `Conv3x3` whose weights lie as ONNX wants them: (outputs, inputs, 3, 3)."""

    weight: Float[Array, "c_out c_in 3 3"]
    bias: Float[Array, " c_out"]

    def __call__(self, x: Float[Array, "c h w"]) -> Float[Array, "c_out h w"]:
        y = jax.lax.conv_general_dilated(x[None], self.weight, (1, 1), "SAME")[0]
        return y + self.bias[:, None, None]


class Plain1x1(eqx.Module):
    """A `Conv1x1` as a product of pixels and a matrix, which the file then holds only once."""

    weight: Float[Array, "c_out c_in"]
    bias: Float[Array, " c_out"]

    def __call__(self, x: Float[Array, "c h w"]) -> Float[Array, "c_out h w"]:
        pixels = rearrange(x, "c h w -> (h w) c") @ self.weight.T
        return rearrange(pixels, "(h w) c -> c h w", h=x.shape[1]) + self.bias[:, None, None]


def plain(module: eqx.Module) -> eqx.Module:
    """The same network, its convolutions as the converter to ONNX knows them."""

    def one(part: Any) -> Any:
        if isinstance(part, Conv3x3):
            return Plain3x3(part.weight.transpose(0, 3, 1, 2), part.bias)
        if isinstance(part, Conv1x1):
            return Plain1x1(part.linear.weight, part.linear.bias)
        return part

    return jax.tree.map(one, module, is_leaf=lambda part: isinstance(part, Conv3x3 | Conv1x1))


def networks(pipeline: Pipeline) -> dict[str, tuple[Callable, dict[str, Any], tuple[str, ...]]]:
    """The functions that the page calls: each with its inputs, by name, and its outputs' names.

    `model` takes one clip and two prompts, of which guidance goes from the first to the second.
    """
    config, codec = pipeline.config, pipeline.model.codec
    ids = pipeline.reader.batch([None])[0]
    text = pipeline.encode_prompts([None, None], config.text.parts)
    shape = codec.shape(config.data.frames, config.data.size)
    reader, model = plain(pipeline.model.text), plain(pipeline.model.model)
    clip = jax.ShapeDtypeStruct(shape, np.float32)

    def read(ids: Array) -> tuple[Array, Array, Array]:
        text = reader(ids)
        return text.states, text.pooled, text.mask

    def predict(x_t, level, states, pooled, mask, *given):
        known, circle = KnownFrames(*given) if given else None, config.data.loops
        one = lambda *text: model(x_t, level, Condition(Text(*text), known, circle))  # noqa: E731
        return jax.vmap(one)(states, pooled, mask)

    inputs = {"x_t": clip, "level": np.zeros((), np.float32), "states": text.states,
              "pooled": text.pooled, "mask": text.mask}  # fmt: skip
    if pipeline.takes_known:
        inputs |= {"known": clip, "is_known": np.zeros(shape[0], bool)}
    out = {"text": (read, {"ids": ids}, ("states", "pooled", "mask")),
           "model": (predict, inputs, ("prediction",))}  # fmt: skip
    if type(codec) not in (Pixels, Palette):
        size, channels = config.data.size, config.data.channels
        frame = jax.ShapeDtypeStruct((channels, size, size), np.float32)
        out["decoder"] = (decoder(codec), {"x0": clip}, ("clip",))
        if pipeline.takes_known:
            out["encoder"] = (encoder(codec), {"frame": frame}, ("x0",))
    return out


def decoder(codec: FrameCodec | Tiles) -> Callable[[Array], Array]:
    """From x0 to a clip in [-1, 1], channels first."""
    if isinstance(codec, Tiles):

        def to_clip(x0: Float[Array, "f d y x"]) -> Float[Array, "f c h w"]:
            code = rearrange(x0, "f d y x -> (f y x) d")
            tiles = (code * codec.scale[None]) @ codec.basis.T + codec.mean[None]
            form = "(f y x) (c p q) -> f c (y p) (x q)"
            _, _, y, x = x0.shape
            return rearrange(tiles, form, y=y, x=x, p=TILE, q=TILE)

        return to_clip
    return jax.vmap(plain(codec).to_frame)


def encoder(codec: FrameCodec | Tiles) -> Callable[[Array], Array]:
    """From one frame in [-1, 1] to its part of x0."""
    if isinstance(codec, Tiles):

        def to_code(frame: Float[Array, "c h w"]) -> Float[Array, "d y x"]:
            tiles = rearrange(frame, "c (y p) (x q) -> (y x) (c p q)", p=TILE, q=TILE)
            code = (tiles - codec.mean[None]) @ codec.basis / codec.scale[None]
            return rearrange(code, "(y x) d -> d y x", y=frame.shape[1] // TILE)

        return to_code
    return plain(codec).to_code


def to_onnx(run: Callable, inputs: dict[str, Any], outputs: tuple[str, ...]) -> bytes:
    """A function as an ONNX file. Weights that half precision holds exactly are kept in it."""
    from jax2onnx import to_onnx as convert
    from onnx import TensorProto, helper, numpy_helper

    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in inputs.values()]
    proto = convert(run, shapes, input_names=list(inputs), output_names=list(outputs))
    casts = []
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor)
        is_large = array.dtype == np.float32 and array.size > 256
        with np.errstate(over="ignore"):
            if is_large and (array.astype(np.float16).astype(np.float32) == array).all():
                name, half = tensor.name, f"{tensor.name}_half"
                tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), half))
                casts.append(helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto.SerializeToString()


# ---- settings ------------------------------------------------------------------------------------


def settings(pipeline: Pipeline, name: str, runtime: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Everything that the script has to know, as JSON."""
    config, codec, schedule = pipeline.config, pipeline.model.codec, pipeline.schedule
    data, sample, reader = config.data, config.sample, pipeline.reader
    part, kind = getattr(reader, "reader", reader), config.diffusion.predict
    one, zero, steps = jnp.ones(()), jnp.zeros(()), jnp.arange(1, schedule.T + 1)
    # at every step t, x0 is so much of x_t and so much of the prediction
    of_x = jax.vmap(lambda t: to_x0(schedule, zero, one, t, kind))(steps)
    of_prediction = jax.vmap(lambda t: to_x0(schedule, one, zero, t, kind))(steps)
    colors = np.unique(codec.colors, axis=0).tolist() if isinstance(codec, Palette) else None
    return {
        "name": name, "fps": data.fps, "size": data.size, "channels": data.channels,
        "shape": codec.shape(data.frames, data.size), "limit": codec.limit, "colors": colors,
        "words": part.words, "fillers": sorted(FILLERS), "max_tokens": part.max_tokens,
        "parts": config.text.parts, "examples": examples(pipeline),
        "alpha": schedule.alpha.tolist(), "sigma": schedule.sigma.tolist(),
        "x0_of_x": [0.0, *of_x.tolist()], "x0_of_prediction": [0.0, *of_prediction.tolist()],
        "guidance": 1.0 if data.unconditional else sample.guidance,
        "steps": PALETTE_STEPS if colors else STEPS,
        "solver": "ddim" if sample.solver == "ddim" and not sample.eta else "dpmpp",
        "temperature": sample.temperature, "dynamic_threshold": sample.dynamic_threshold,
        "loops": data.loops, "known": pipeline.takes_known, "runtime": runtime,
    }  # fmt: skip


def examples(pipeline: Pipeline) -> list[str]:
    """Up to eight prompts that the model can read."""
    data, words = pipeline.config.data, pipeline.words
    if data.dataset in DATASETS:
        prompts = DATASETS[data.dataset].prompts
    elif is_prepared(Path(data.dataset)):
        prompts = ClipFolder(Path(data.dataset), data, pipeline.config.text.max_tokens).prompts
    else:
        prompts = [" ".join(words[:4])]
    if data.dataset == "moving_mnist" and data.digits > 1:
        prompts = [" and ".join(pair) for pair in zip(prompts[::2], prompts[1::2])]
    return [prompt for prompt in prompts if words or not prompt][:8]


def copy_runtime(folder: Path | None, out: Path) -> dict[str, dict[str, str]]:
    """Where the page finds each file of RUNTIME: copied from a `node_modules`, or on the network.
    """
    if folder is None:
        return {name: {"url": NETWORK + path, "integrity": digest}
                for name, (path, digest) in RUNTIME.items()}  # fmt: skip
    places = {}
    (out / "runtime").mkdir(exist_ok=True)
    for name, (path, digest) in RUNTIME.items():
        package, _, rest = path.partition("/")
        source = folder / package.partition("@")[0] / rest
        advice = f"npm install {' '.join(sorted({p.split('/')[0] for p, _ in RUNTIME.values()}))}"
        expect(source.is_file(), f"{source}, as `{advice}` makes it, in --runtime", "no such file")
        data = source.read_bytes()
        found = "sha384-" + base64.b64encode(hashlib.sha384(data).digest()).decode()
        expect(found == digest, f"{source} of {package}: `{advice}`", "another version of it")
        write_whole(out / "runtime" / source.name, data)
        places[name] = {"url": f"runtime/{source.name}"}
    return places


# ---- the command ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """What to export, and where to."""

    checkpoint: Annotated[str, tyro.conf.Positional]
    """A run folder, a model file, or moving_mnist, two_digits or sprites."""
    out: Annotated[Path, tyro.conf.Positional]
    """The folder of the page: a new one, or an earlier page."""
    runtime: Path | None = None
    """A node_modules folder (npm install onnxruntime-web@1.30.0 gifenc@1.0.3) whose files are
    copied beside the page; without it the page loads them from a public network."""


def export_page(pipeline: Pipeline, name: str, out: Path, runtime: Path | None = None) -> None:
    """Write the page. The settings come last: the page of an interrupted call says it is not done.

    Raises TinygifError for a model that reads by a pretrained tower, and for a folder with other
    files in it.
    """
    tower = pipeline.config.text.text
    what = "a model with a text encoder of its own (--text words) for a page"
    expect(tower == "words", what, f"the tower {tower}, too large for a browser")
    files = [f"{network}.onnx" for network in ("text", "model", "decoder", "encoder")]
    ours = {"runtime", "settings.json", *files, *(path.name for path in PAGE.iterdir())}
    found = [path.name for path in out.iterdir()] if out.is_dir() else []
    strange = sorted(set(found) - ours)
    expect(not strange, "a new folder, or an earlier page", f"{out} with {', '.join(strange[:3])}")
    if importlib.util.find_spec("jax2onnx") is None:
        raise TinygifError('jax2onnx is missing: python -m pip install "tinygif[export]"')
    check_room(out, 2**26, "a page")
    (out / "settings.json").unlink(missing_ok=True)
    places = copy_runtime(runtime, out)
    for file in PAGE.iterdir():
        shutil.copyfile(file, out / file.name)
    graphs = networks(pipeline)
    for network, (run, inputs, outputs) in graphs.items():
        write_whole(out / f"{network}.onnx", to_onnx(run, inputs, outputs))
    values = settings(pipeline, name, places) | {"files": sorted(graphs)}
    write_whole(out / "settings.json", json.dumps(values).encode())


def main(options: Options) -> None:
    pipeline = pipelines.load(options.checkpoint)
    export_page(pipeline, options.checkpoint.rstrip("/"), options.out, options.runtime)
    size = sum(path.stat().st_size for path in options.out.iterdir() if path.is_file())
    print(f"wrote {options.out}/ ({size / 1e6:.1f} MB). See it with\n"
          f"    python -m http.server --directory {options.out}\n"
          "and open http://localhost:8000, or put the folder on any web space")  # fmt: skip


if __name__ == "__main__":
    run_command("tinygif.export", lambda: main(tyro.cli(Options, description=__doc__)))
