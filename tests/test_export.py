"""export.py and page/: the page draws what `sample.py` draws, and says what it says. Lesson 17."""

import http.server
import json
import os
import shutil
import subprocess
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import tinygif
from tinygif import export
from tinygif.autoencoder import CodecConfig
from tinygif.codec import Pixels
from tinygif.errors import TinygifError
from tinygif.export import RUNTIME, Options, export_page, networks, plain, settings
from tinygif.gif import read_gif
from tinygif.pipeline import Pipeline
from tinygif.resnet import Conv1x1, Conv3x3
from tinygif.transformer import TransformerConfig

KNOWN = replace(tiny.CONFIG, model=replace(tiny.CONFIG.model, known_frames=True))
LEARNED = replace(
    KNOWN, codec=CodecConfig("autoencoder", codec_width=8), model=replace(KNOWN.model, patch=1)
)
PARTS = replace(tiny.CONFIG, text=replace(tiny.CONFIG.text, parts=2))
TILES = replace(LEARNED, codec=CodecConfig("tiles"), data=replace(KNOWN.data, channels=3))
TRANSFORMER = replace(tiny.CONFIG, model=TransformerConfig(width=16, depth=1, heads=2))
CONFIGS = {"pixels": tiny.CONFIG, "known": KNOWN, "learned": LEARNED, "parts": PARTS,
           "tiles": TILES, "transformer": TRANSFORMER}  # fmt: skip


def pipeline(config) -> Pipeline:
    """A pipeline with random weights."""
    return Pipeline(tiny.state(config).ema, config, tiny.ABOUT.words)


# ---- networks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [Conv3x3, Conv1x1])
def test_plain_layers_are_the_same_function(layer):
    conv = layer(5, 7, key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (5, 4, 6))
    assert type(plain(conv)) is not layer
    np.testing.assert_allclose(plain(conv)(x), conv(x), atol=1e-5)


@pytest.mark.parametrize("name", ["learned", "tiles"])
def test_decoder_and_encoder_are_the_codecs_own(name):
    codec = pipeline(CONFIGS[name]).model.codec
    if name == "tiles":
        rng = np.random.default_rng(0)
        codec = type(codec)(np.zeros((1, 3), np.uint8), *(
            rng.uniform(0.5, 1, shape).astype(np.float32) for shape in ((48,), (48, 28), (28,))
        ))  # fmt: skip
    pixels = Pixels(CONFIGS[name].data.channels)
    shape = 2, 16, 16, pixels.channels
    clip = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    code, frames = np.asarray(codec.encode(clip)), pixels.encode(clip)
    np.testing.assert_allclose(export.encoder(codec)(frames[0]), code[0], atol=1e-4)
    back = pixels.decode(np.asarray(export.decoder(codec)(jnp.asarray(code))))
    if name == "learned":
        np.testing.assert_array_equal(back, codec.decode(code))
    else:  # tiles are then rounded to the palette, here black
        assert back.shape == clip.shape


@pytest.mark.parametrize("name", CONFIGS)
def test_the_files_compute_what_the_networks_do(name):
    pytest.importorskip("jax2onnx")
    runtime = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    for file, (run, inputs, outputs) in networks(pipeline(CONFIGS[name])).items():
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            graph = export.to_onnx(run, inputs, outputs)
        draw = {"f": rng.standard_normal, "i": partial(rng.integers, 0, 2)}
        draw["b"] = draw["i"]
        given = {key: draw[a.dtype.kind](size=a.shape).astype(a.dtype)
                 for key, a in inputs.items()}  # fmt: skip
        results = runtime.InferenceSession(graph).run(list(outputs), given)
        wanted = run(*map(jnp.asarray, given.values()))
        for got, array in zip(results, wanted if isinstance(wanted, tuple) else (wanted,)):
            np.testing.assert_allclose(got, array, atol=2e-5, err_msg=f"{name}, {file}")


def test_weights_of_half_precision_take_half_of_the_room():
    pytest.importorskip("jax2onnx")
    shape, rng = (64, 64), np.random.default_rng(0)
    exact = rng.standard_normal(shape).astype(np.float16).astype(np.float32)
    sizes = []
    for weight in (exact, exact + 1e-6):
        run = partial(jnp.matmul, jnp.asarray(weight))
        sizes.append(len(export.to_onnx(run, {"x": np.zeros(shape, np.float32)}, ("y",))))
    assert sizes[1] - sizes[0] > 0.4 * exact.nbytes


# ---- the folder --------------------------------------------------------------------------------


def test_settings_are_json_and_solve_for_x0():
    config = replace(tiny.CONFIG, diffusion=replace(tiny.CONFIG.diffusion, zero_snr=True))
    pipe = pipeline(config)
    values = json.loads(json.dumps(settings(pipe, "x", {}), allow_nan=False))
    alpha, sigma = np.array(values["alpha"]), np.array(values["sigma"])
    x0, eps = np.random.default_rng(0).standard_normal((2, 51))
    x_t, v = alpha * x0 + sigma * eps, alpha * eps - sigma * x0
    solved = np.array(values["x0_of_x"]) * x_t + np.array(values["x0_of_prediction"]) * v
    np.testing.assert_allclose(solved[1:], x0[1:], atol=1e-5)
    for prompt in values["examples"]:
        pipe.encode_prompts([prompt])


def test_a_tower_is_refused(tmp_path):
    config = replace(tiny.CONFIG, text=replace(tiny.CONFIG.text, text="bert"))
    pipe = pipeline(tiny.CONFIG)
    pipe.config = config
    with pytest.raises(TinygifError, match="a text encoder of its own .* got the tower bert"):
        export_page(pipe, "x", tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(TinygifError, match="a new folder, or an earlier page, .* thesis.txt"):
        export_page(pipeline(tiny.CONFIG), "x", tmp_path)


def test_a_runtime_that_is_not_there_is_told(tmp_path):
    pytest.importorskip("jax2onnx")
    with pytest.raises(TinygifError, match="npm install gifenc.* onnxruntime-web"):
        export_page(pipeline(tiny.CONFIG), "x", tmp_path / "page", tmp_path)


def test_the_network_is_pinned_by_hashes():
    places = export.copy_runtime(None, Path("nowhere"))
    for name, (path, digest) in RUNTIME.items():
        assert places[name] == {"url": export.NETWORK + path, "integrity": digest}
        assert "@" in path and digest.startswith("sha384-")


# ---- in a browser ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runtime(tmp_path_factory) -> Path:
    """A node_modules folder with what the page needs."""
    folder = os.environ.get("TINYGIF_TEST_RUNTIME")
    if folder:
        return Path(folder)
    npm, folder = shutil.which("npm"), tmp_path_factory.mktemp("npm")
    packages = {path.partition("/")[0] for path, _ in RUNTIME.values()}
    done = npm and subprocess.run(
        [npm, "install", "--prefix", folder, "--ignore-scripts", *packages], capture_output=True
    )
    if not done or done.returncode:
        pytest.skip("npm cannot install the runtime")
    return folder / "node_modules"


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium")
    with playwright.sync_playwright() as control:
        yield control.chromium.launch(executable_path=chromium, args=["--no-sandbox"])


@pytest.fixture
def opened(browser, runtime, tmp_path):
    """A function that exports a model and opens its page at an address' query."""
    pytest.importorskip("jax2onnx")

    class Handler(http.server.SimpleHTTPRequestHandler):
        log_message = lambda *_: None  # noqa: E731

    handler = partial(Handler, directory=tmp_path)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = browser.new_page()

    def open_page(name: str, query: str):
        if not (tmp_path / "settings.json").exists():
            with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
                export.main(Options(name, tmp_path, runtime))
        page.goto(f"http://127.0.0.1:{server.server_port}/{query}")
        wait(page)
        return page

    yield open_page
    page.close()
    server.shutdown()


def wait(page) -> None:
    page.wait_for_function("['done', 'failed'].includes(document.title)", timeout=120_000)


def clip_of(page, options: dict) -> np.ndarray:
    """The clip that the page draws, (f, h, w, 3)."""
    film = page.evaluate("""async options => {
        const page = await import(new URL("page.js", location.href));
        const [away, to] = [await page.readPrompt(null), await page.readPrompt(options.prompt)];
        const texts = {};
        for (const name of Object.keys(to)) texts[name] = page.stack(away[name], to[name]);
        const x = await page.denoise(options, texts, 0, null, async () => {});
        return (await page.decode(x)).map(frame => Array.from(frame));
    }""", options)  # fmt: skip
    size = int((len(film[0]) // 4) ** 0.5)
    return np.array(film).reshape(-1, size, size, 4)[..., :3]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "prompt"), [
    ("moving_mnist", "a 7 moving left"), ("two_digits", "a 7 moving left and a 3 moving up"),
    ("sprites", "an orc with purple hair walking left"),
])  # fmt: skip
def test_the_page_draws_what_python_draws(opened, name, prompt):
    """The same seed, the same clip: at most 1 of 255 apart; a palette's colours are the same for
    nearly all pixels."""
    options = {"prompt": prompt, "seed": 2**32 - 5, "steps": 4, "guidance": 3.0, "solver": "dpmpp"}
    page = opened(name, "")
    assert page.title() == "done", page.text_content("#message")
    clip = clip_of(page, options)
    pipe, choices = tinygif.load(name), {k: v for k, v in options.items() if k != "prompt"}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        wanted = np.broadcast_to(pipe([prompt], **choices).array[0], clip.shape).astype(int)
    far = np.abs(clip - wanted).max(-1)
    assert far.max() <= 1 if name != "sprites" else (far > 1).mean() < 0.005


@pytest.mark.slow
def test_a_visitor(opened, tmp_path):
    """A shared link shows its GIF; unknown words are told as in Python; a GIF is downloaded."""
    link = "?prompt=a+7+moving+left&seed=1&steps=4"
    page = opened("moving_mnist", link)
    assert page.title() == "done" and page.input_value("#seed") == "1"
    first = page.evaluate("document.querySelector('canvas').toDataURL().length")
    assert first > 500 and "seed=1&steps=4" in page.url
    assert "--prompt 'a 7 moving left' --seed 1 --steps 4" in page.text_content("#command")
    with page.expect_download() as download:
        page.click("a[download]")
    download.value.save_as(tmp_path.parent / "x.gif")
    assert download.value.suggested_filename == "a_7_moving_left.gif"
    clip, delays = read_gif(tmp_path.parent / "x.gif")
    assert clip.shape == (16, 128, 128, 3) and set(delays) == {120, 130}

    pipe = tinygif.load("moving_mnist")
    for prompt in ("a 7 moving lefft", "a qqqqqq", "", "!", "a 7 " * 20, "it's 3o moving", "zzz's"):
        with pytest.raises(TinygifError) as error:
            pipe.encode_prompts([prompt.strip()])
        page.fill("#prompt", prompt)
        page.evaluate("document.title = ''")
        page.click("#draw")
        wait(page)
        assert page.title() == "failed" and page.text_content("#message") == str(error.value)
    page.fill("#prompt", "a 7 moving lefft")
    page.evaluate("document.title = ''")
    page.click("#near button")
    wait(page)
    assert page.title() == "done" and page.input_value("#prompt") == "a 7 moving left"
    page.evaluate("document.querySelector('details').open = true; document.title = ''")
    page.fill("#steps", "0")
    page.click("#draw")
    wait(page)
    assert "expected steps from 1 to 1000, got '0'" in page.text_content("#message")
