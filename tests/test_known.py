"""known.py: known frames stay, the others follow, clips go on; loops have no seam. Lesson 13."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equinox import filter_jit as jit
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from quick import noise
from tiny import CONFIG, DATA, batch, model

from tinygif import gif, training
from tinygif.attention import over_time
from tinygif.config import DataConfig
from tinygif.errors import TinygifError
from tinygif.guidance import Pinned, Rolled
from tinygif.known import (
    animate,
    close,
    familiar,
    fit,
    know,
    lengthen,
    place,
    read_clip,
    read_frames,
    read_picture,
)
from tinygif.pipeline import Pipeline
from tinygif.position import RelativePositionBias, rotary
from tinygif.sampler import SOLVERS, noise_again, sample, timesteps, trajectory
from tinygif.schedule import cosine
from tinygif.text import Condition, KnownFrames, Text

KNOWING = replace(CONFIG, model=replace(CONFIG.model, known_frames=True))
PROMPT = "a 7 moving left"
seeds = st.integers(0, 2**31)


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline(model(), CONFIG, DATA.words)


@pytest.fixture(scope="module")
def knowing():
    return Pipeline(model(KNOWING), KNOWING, DATA.words)


def picture(seed=0, size=16, channels=1):
    return np.random.default_rng(seed).integers(0, 256, (size, size, channels), np.uint8)


# ---- pictures --------------------------------------------------------------------------------


@given(seeds, st.integers(1, 5))
def test_an_enlarged_clip_comes_back(seed, scale):
    small = picture(seed, 8, 3)
    large = gif.enlarge(small[None], scale)[0]
    np.testing.assert_array_equal(fit(large, DataConfig(size=8, channels=3)), small)


def test_a_wide_picture_is_cut_not_stretched():
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = picture(0, 8, 3)
    np.testing.assert_array_equal(fit(wide, DataConfig(size=8, channels=3)), wide[:, 8:16])


def test_colours_become_gray_by_their_brightness():
    green = np.full((4, 4, 3), (0, 200, 0), np.uint8)
    np.testing.assert_array_equal(fit(green, DataConfig(size=2)), np.full((2, 2, 1), 117))


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp", "x.gif"])
def test_all_usual_pictures_are_read(tmp_path, name):
    Image.new("RGB", (9, 9), (10, 200, 30)).save(tmp_path / name)
    got = read_picture(tmp_path / name, DataConfig(size=3, channels=3))
    assert got.shape == (3, 3, 3) and np.abs(got.astype(int) - [10, 200, 30]).max() < 8


def test_a_gif_is_read_at_the_speed_of_the_model(tmp_path):
    clip = np.stack([picture(i, 8, 3) for i in range(4)]) // 64 * 64
    gif.write_gif(tmp_path / "x.gif", clip, 4)
    for fps, numbers in ((4, [0, 1, 2, 3]), (8, [0, 0, 1, 1, 2, 2, 3, 3]), (2, [1, 3])):
        got = read_clip(tmp_path / "x.gif", DataConfig(size=8, channels=3), fps)
        np.testing.assert_array_equal(got, clip[numbers])


@pytest.mark.parametrize("content, says", [
    (None, "not found"), (b"GIF89a", "could not read"), (b"", "could not read"),
    (b"no picture", "could not read"),
])  # fmt: skip
def test_what_is_no_picture_is_refused(tmp_path, content, says):
    path = tmp_path / "x.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TinygifError, match=says):
        read_frames(path)


def test_a_single_picture_cannot_go_on(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "x.gif")
    with pytest.raises(TinygifError, match="at least two frames"):
        read_clip(tmp_path / "x.gif", DataConfig(), 8)


def test_a_training_picture_is_familiar_and_noise_is_not():
    assert familiar(DATA[999][0][0], CONFIG)[0] <= familiar(DATA[999][0][0], CONFIG)[1]
    far, usual = familiar(picture(), CONFIG)
    assert far > usual > 0


def test_nothing_is_said_about_data_that_is_not_here(tmp_path):
    for name in (str(tmp_path / "gone"), "sprites"):
        config = replace(CONFIG, data=replace(CONFIG.data, dataset=name, mnist_dir=None))
        assert familiar(picture(), config) is None


# ---- known frames ----------------------------------------------------------------------------


def test_pictures_are_placed_and_the_rest_is_black():
    first, last = picture(1), picture(2)
    clips, mask = place({0: first, -1: last}, 4, 3)
    assert mask.tolist() == [True, False, False, True] and clips.shape == (3, 4, 16, 16, 1)
    np.testing.assert_array_equal(clips[1, [0, 3]], [first, last])
    assert clips[:, 1:3].max() == 0


def test_known_frames_are_in_the_codecs_range(pipeline):
    known = know(pipeline, *place({-1: picture()}, 4, 2))
    assert known.frames.shape == (2, 4, 1, 16, 16)
    assert known.mask.tolist() == [[False, False, False, True]] * 2
    np.testing.assert_allclose(known.frames[0, 3, 0], picture()[..., 0] / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("places", [[0], [-1], [0, -1], [1, 2]])
@pytest.mark.parametrize("name", ["pipeline", "knowing"])
def test_known_frames_come_out_as_they_went_in(request, name, places):
    pictures = {number: picture(7 + number) for number in places}
    clips = animate(request.getfixturevalue(name), [PROMPT, None], pictures=pictures, seed=1)
    for number, wanted in pictures.items():
        np.testing.assert_array_equal(clips[:, number], [wanted, wanted])
    assert clips.shape == (2, 4, 16, 16, 1) and (clips[0] != clips[1]).any()


@pytest.mark.parametrize("solver", ["ddim", "ddpm", "dpmpp"])
def test_on_the_way_known_frames_have_the_noise_of_each_step(solver):
    """x_t of a known frame is alpha x0 plus noise of deviation sigma, whatever others become."""
    schedule, frames = cosine(50), noise(1, 4, 1, 30, 30, seed=5)
    known = KnownFrames(frames, jnp.array([[True, False, False, True]]))
    pinned = Pinned(lambda x_t, t: 0 * x_t, known)
    times, start = timesteps(50, 10), noise(1, 4, 1, 30, 30, seed=6)
    way = trajectory(
        pinned, schedule, start, key=jax.random.key(0), steps=10, solver=SOLVERS[solver]()
    )
    for t, (x, _) in zip(times[1:], way):
        left = np.asarray(x - schedule.alpha[t] * frames)[:, [0, 3]]
        assert abs(left.std() - schedule.sigma[t]) < 0.06 and abs(left.mean()) < 0.06
    np.testing.assert_allclose(x[:, [0, 3]], frames[:, [0, 3]], atol=1e-4)
    assert np.abs(x[:, 1:3]).max() < 1e-3


def test_a_new_model_does_as_if_nothing_were_known():
    clip, text = noise(4, 1, 16, 16), Text(noise(3, 16), noise(16), jnp.ones(3, bool))
    net = KNOWING.init(4, key=jax.random.key(0)).model
    known = KnownFrames(clip, jnp.array([True, False, False, False]))
    run = jit(lambda known: net(clip, jnp.float32(0.5), Condition(text, known)))
    np.testing.assert_array_equal(run(known), run(None))


def test_a_model_sees_the_known_frames_and_no_others(knowing):
    net, clip = knowing.model.model, noise(4, 1, 16, 16)
    text = Text(noise(3, 16), noise(16), jnp.ones(3, bool))
    mask = jnp.array([False, True, False, False])

    @jit
    def gradient(frames):
        out = lambda frames: net(  # noqa: E731
            clip, jnp.float32(0.5), Condition(text, KnownFrames(frames, mask))
        ).sum()
        return jax.grad(out)(frames)

    seen = np.abs(gradient(noise(4, 1, 16, 16, seed=3))).max((1, 2, 3))
    assert seen[1] > 0 and (seen[[0, 2, 3]] == 0).all()


def test_every_part_of_a_prompt_sees_the_known_frames_and_the_circle():
    config = replace(KNOWING, text=replace(CONFIG.text, parts=2))
    net, clip = model(config).model, noise(4, 1, 16, 16)
    text = Text(noise(2, 3, 16), noise(2, 16), jnp.ones((2, 3), bool))
    mask = jnp.array([True, False, False, False])

    @jit
    def predict(frames, circle=False):
        return net(clip, jnp.float32(0.5), Condition(text, KnownFrames(frames, mask), circle))

    known = noise(4, 1, 16, 16, seed=3)
    plain = predict(known)
    assert np.abs(predict(known + 1) - plain).max() > 1e-3
    assert np.abs(predict(known, circle=True) - plain).max() > 1e-3


def test_a_picture_among_few_clips_is_not_called_strange(tmp_path, monkeypatch):
    """Of a folder with few clips nobody can tell what is usual."""
    monkeypatch.setenv("TINYGIF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "clips").mkdir()
    for i in range(60):
        gif.write_gif(tmp_path / f"clips/{i}.gif", np.full((4, 16, 16, 3), i, np.uint8))
        (tmp_path / f"clips/{i}.txt").write_text("a clip")
    config = replace(CONFIG, data=replace(CONFIG.data, dataset=str(tmp_path / "clips"),
                                          mnist_dir=None, digits_hash=None))  # fmt: skip
    assert familiar(picture(), config) is None


@given(seeds, st.integers(1, 16))
def test_training_shows_a_beginning_or_an_end(seed, frames):
    mask = np.asarray(training.random_frames(jax.random.key(seed), frames, 1.0))
    assert mask.any()
    changes = np.flatnonzero(np.diff(mask.astype(int)))
    assert len(changes) <= 2 and (mask[0] or mask[-1])
    if frames > 1 and len(changes) == 2:
        assert mask[0] and mask[-1]
    if frames > 3 and mask[: frames // 2 + 1].all():  # a beginning is no longer than a half
        assert mask[-1]


def test_a_share_of_the_clips_shows_frames_mostly_one_or_half_of_them():
    keys = jax.random.split(jax.random.key(0), 2000)
    masks = np.asarray(jax.vmap(lambda key: training.random_frames(key, 16, 0.4))(keys))
    shown = masks.any(1)
    assert abs(shown.mean() - 0.4) < 0.05
    assert {tuple(ends) for ends in masks[shown][:, [0, -1]].tolist()} == {
        (True, False), (False, True), (True, True)}  # fmt: skip
    first_only = masks[:, 0] & ~masks[:, -1]
    counts = masks[first_only].sum(1)
    assert abs((counts == 1).mean() - 0.25) < 0.08 and abs((counts == 8).mean() - 0.52) < 0.08
    assert masks.all(1).mean() < 0.01


def test_training_with_known_frames_reaches_their_layer():
    config = replace(KNOWING, train=replace(KNOWING.train, known_share=0.9))
    config.check()
    data = batch()
    loss, grads = jit(training.gradients)(
        model(config), config.diffusion.build(), config, data.clips, data.prompts, jax.random.key(0)
    )
    assert np.isfinite(loss) and np.abs(grads.model.known.weight).max() > 0


def test_a_model_that_cannot_be_given_frames_is_not_trained_with_them():
    with pytest.raises(TinygifError, match="--known-frames with --known-share"):
        replace(CONFIG, train=replace(CONFIG.train, known_share=0.5)).check()


def test_a_model_that_was_not_trained_with_them_says_so(pipeline, knowing, capsys):
    animate(pipeline, [PROMPT], pictures={0: picture()})
    assert "was not trained with known frames" in capsys.readouterr().err
    animate(knowing, [PROMPT], pictures={0: picture()})
    assert capsys.readouterr().err == ""


# ---- longer clips ----------------------------------------------------------------------------


def test_a_clip_goes_on_from_its_frames(knowing):
    start = np.stack([picture(i) for i in range(3)])
    clips = animate(knowing, [None, PROMPT], start=start, frames=9, seed=4)
    assert clips.shape == (2, 9, 16, 16, 1)
    np.testing.assert_array_equal(clips[:, :3], [start, start])
    assert animate(knowing, [None], start=start).shape[1] == 3 + 2


def test_windows_are_as_long_as_clips_in_training(knowing, monkeypatch):
    lengths = []
    original = Pipeline.denoising

    def watch(self, prompts, **options):
        lengths.append(options["known"].mask.sum(1).tolist() if options.get("known") else None)
        return original(self, prompts, **options)

    monkeypatch.setattr(Pipeline, "denoising", watch)
    clips = animate(knowing, [PROMPT], frames=11, seed=4)
    assert clips.shape[1] == 11 and lengths == [None, [2], [2], [2], [2]]
    first = knowing([PROMPT], seed=4).array
    np.testing.assert_array_equal(clips[:, :4], first)


@pytest.mark.parametrize("start, frames", [(1, 20), (2, 5), (3, 8), (7, 23)])
def test_a_clip_gets_as_many_frames_as_are_asked_for(knowing, start, frames):
    clip = np.stack([picture(i) for i in range(start)])
    longer = animate(knowing, [None], start=clip, frames=frames)
    assert longer.shape[1] == frames
    np.testing.assert_array_equal(longer[0, :start], clip)


def test_a_clip_goes_on_without_guidance_unless_it_is_asked_for(knowing):
    clip = picture()[None]
    default, plain, strong = (
        animate(knowing, [PROMPT], start=clip, frames=6, guidance=g) for g in (None, 1.0, 7.0)
    )
    np.testing.assert_array_equal(default, plain)
    assert (strong != plain).any()


def test_fewer_frames_than_there_are_is_a_mistake(knowing):
    with pytest.raises(TinygifError, match="more frames than the 6 that the clip has, got 6"):
        lengthen(knowing, np.zeros((1, 6, 16, 16, 1), np.uint8), 6, [[None]])


def test_later_windows_may_have_sentences_of_their_own(knowing, monkeypatch):
    """Each window is drawn for its own prompt, and the last one is used again."""
    asked, original = [], Pipeline.denoising

    def watch(self, prompts, **options):
        asked.append(prompts)
        return original(self, prompts, **options)

    monkeypatch.setattr(Pipeline, "denoising", watch)
    start, pair = np.stack([picture()] * 4), [PROMPT] * 2
    for clip, frames, then, wanted in [
        (None, 8, (), [PROMPT] * 3), (None, 10, ("a 3", "a 7"), [PROMPT, "a 3", "a 7", "a 7"]),
        (start, 8, ("a 3",), [PROMPT, "a 3"]),
    ]:
        asked.clear()
        clips = animate(knowing, pair, start=clip, frames=frames, then=then)
        assert clips.shape[1] == frames and asked == [[prompt] * 2 for prompt in wanted]
    asked.clear()
    with pytest.raises(TinygifError, match="'zebra'"):
        animate(knowing, pair, frames=10, then=("a zebra",))
    assert asked == []  # before anything is drawn
    with pytest.raises(TinygifError, match="more --frames than one clip, for --then"):
        animate(knowing, pair, then=("a 3",))
    with pytest.raises(TinygifError, match="last frame within one clip"):
        animate(knowing, [PROMPT], pictures={-1: picture()}, frames=8)
    with pytest.raises(TinygifError, match="a loop within one clip"):
        animate(knowing, [PROMPT], frames=8, loop=True)
    with pytest.raises(TinygifError, match="pictures, or a clip"):
        animate(knowing, [PROMPT], pictures={0: picture()}, start=picture()[None])
    with pytest.raises(TinygifError, match="resample from 1"):
        animate(knowing, [PROMPT], pictures={0: picture()}, resample=0)


def test_a_clip_is_led_back_to_its_beginning(knowing, monkeypatch):
    """The new frames are drawn between how the clip ends and how it begins."""
    given = []
    original = Pipeline.denoising

    def watch(self, prompts, **options):
        given.append(options["known"])
        return original(self, prompts, **options)

    monkeypatch.setattr(Pipeline, "denoising", watch)
    clips = np.stack([picture(i) for i in range(5)])[None]
    closed = close(knowing, clips, seed=3)
    assert closed.shape == (1, 5 + 2, 16, 16, 1)
    np.testing.assert_array_equal(closed[:, :5], clips)
    assert given[0].mask.tolist() == [[True, False, False, True]]
    ends = know(knowing, clips[:, [-1, -1, 0, 0]], np.ones(4, bool)).frames
    np.testing.assert_array_equal(given[0].frames[:, [0, 3]], ends[:, [0, 3]])


def test_a_loop_is_a_clip_and_a_way_back_unless_clips_loop_anyway(knowing):
    options = dict(seed=3, steps=2)
    plain = animate(knowing, [PROMPT], **options)
    back = animate(knowing, [PROMPT], loop=True, **options)
    assert back.shape[1] == plain.shape[1] + plain.shape[1] // 2
    np.testing.assert_array_equal(back[:, : plain.shape[1]], plain)
    config = replace(knowing.config, data=replace(knowing.config.data, loops=True))
    looping = Pipeline(knowing.model, config, knowing.words)
    assert animate(looping, [PROMPT], loop=True, **options).shape == plain.shape


# ---- resampling ------------------------------------------------------------------------------


def test_noise_again_gives_the_distribution_of_the_noisier_step():
    schedule, x0 = cosine(50), jnp.full((200, 200), 0.5)
    s, t = jnp.int32(10), jnp.int32(30)
    x_s = schedule.alpha[s] * x0 + schedule.sigma[s] * noise(200, 200)
    x_t = noise_again(schedule, x_s, s, t, jax.random.key(1))
    assert abs(float(x_t.mean() - schedule.alpha[t] * 0.5)) < 0.02
    assert abs(float(x_t.std() - schedule.sigma[t])) < 0.02


def test_resampling_calls_the_denoiser_more_often_and_ends_at_the_data():
    schedule, calls = cosine(50), []

    def denoiser(x_t, t):
        jax.debug.callback(lambda t: calls.append(int(t)), t, ordered=True)
        return 0.25 * jnp.ones_like(x_t)

    out = sample(denoiser, schedule, noise(1, 2, 3), key=jax.random.key(0), steps=3, resample=2)
    jax.effects_barrier()
    assert calls == [50, 50, 33, 33, 17]
    np.testing.assert_allclose(out, 0.25, atol=1e-5)


# ---- loops -----------------------------------------------------------------------------------


def rolled(module, x, by, **options):
    return np.roll(module(np.roll(x, by, 0), **options), -by, 0)


@given(st.integers(1, 6), seeds)
def test_on_a_circle_no_frame_is_the_first(by, seed):
    x = np.asarray(noise(6, 16, 2, 2, seed=seed))
    net = model(replace(CONFIG, model=replace(CONFIG.model, levels=("conv", "time")))).model
    conv, time = net.down[0][0].mixing["conv"], net.down[1][0].mixing["time"]
    conv_on = jit(lambda x: conv(x, circle=True))
    np.testing.assert_allclose(rolled(conv_on, x, by), conv_on(x), atol=1e-3)
    y = np.asarray(noise(6, 32, 2, 2, seed=seed))
    bias = net.bias(6, circle=True)
    time_on = jit(lambda y: over_time(time, y, bias, circle=True))
    np.testing.assert_allclose(rolled(time_on, y, by), time_on(y), atol=1e-3)


def test_on_a_line_there_is_a_first_frame():
    x = np.asarray(noise(6, 16, 2, 2))
    net = model(replace(CONFIG, model=replace(CONFIG.model, levels=("conv", "time")))).model
    conv, time = net.down[0][0].mixing["conv"], net.down[1][0].mixing["time"]
    assert np.abs(rolled(jit(conv), x, 1) - jit(conv)(x)).max() > 0.01
    y, bias = np.asarray(noise(6, 32, 2, 2)), net.bias(6)
    time_on = jit(lambda y: over_time(time, y, bias))
    assert np.abs(rolled(time_on, y, 1) - time_on(y)).max() > 1e-3


@pytest.mark.parametrize("n", [5, 8])
def test_on_a_circle_distance_is_the_shorter_way(n):
    bias = RelativePositionBias(2, key=jax.random.key(0))
    circle = np.asarray(bias(n, circle=True))
    for i in range(n):
        np.testing.assert_array_equal(circle[:, i, (i + 1) % n], circle[:, 0, 1])
    x = jnp.broadcast_to(noise(1, 1, 8), (n, 1, 8))
    turned = rotary(x, circle=True)
    scores = np.asarray(jnp.einsum("nhd,mhd->nm", turned, turned))
    np.testing.assert_allclose(scores[0, n - 1], scores[1, 0], atol=1e-3)


def test_each_step_rolls_a_loop_further_and_back():
    x, seen = jnp.arange(16.0).reshape(1, 16, 1), []
    look = lambda x_t, t: (seen.append(int(x_t[0, 0, 0])), x_t)[1]  # noqa: E731
    for t in map(jnp.int32, (1000, 900, 500, 100)):
        np.testing.assert_array_equal(Rolled(look, 1000)(x, t), x)
    assert seen == [0, 15, 8, 2]


def test_a_loop_is_asked_for_or_what_the_model_was_trained_on(pipeline):
    looped = pipeline([PROMPT], loop=True).array
    assert (looped != pipeline([PROMPT]).array).any()
    loops = replace(CONFIG, data=replace(CONFIG.data, loops=True))
    trained = Pipeline(pipeline.model, loops, DATA.words)
    np.testing.assert_array_equal(trained([PROMPT]).array, looped)
    np.testing.assert_array_equal(trained([PROMPT], loop=False).array, pipeline([PROMPT]).array)


def test_training_on_loops_begins_anywhere(monkeypatch):
    """The model is shown clips from any frame on; short clips, which are no loops, as they are."""
    seen = []

    def watch(model, schedule, config, x0, *rest, circle, **options):
        jax.debug.callback(lambda x0: seen.append((np.asarray(x0), circle)), x0)
        return x0.mean()

    monkeypatch.setattr(training, "predict_loss", watch)
    config = replace(CONFIG, data=replace(CONFIG.data, loops=True))
    for step in (0, 1):
        seen.clear()
        data, codec = batch(step), model().codec
        training.batch_loss(
            model(), CONFIG.diffusion.build(), config, jnp.asarray(data.clips),
            jnp.asarray(data.prompts), jnp.arange(len(data.clips)), jax.random.key(0),
        )  # fmt: skip
        jax.effects_barrier()
        whole = len(data.clips[0]) == CONFIG.data.frames
        clips = [np.asarray(codec.encode(clip)) for clip in data.clips]
        starts = [
            [k for k in range(len(x)) if np.allclose(np.roll(clip, k, 0), x)][0]
            for clip in clips for x, _ in seen if np.allclose(np.sort(clip, 0), np.sort(x, 0))
        ]  # fmt: skip
        assert len(starts) >= len(clips) and all(circle == whole for _, circle in seen)
        assert (len(set(starts)) > 1) == whole


@pytest.mark.slow
def test_training_on_loops_costs_something_else():
    """In layers along time that see a circle; and short clips are not loops."""
    config = replace(CONFIG, data=replace(CONFIG.data, loops=True))
    losses = []
    for options in (CONFIG, config):
        for step in (0, 1):  # of long clips, of short clips
            data = batch(step)
            losses.append(float(jit(training.batch_loss)(
                model(), CONFIG.diffusion.build(), options, data.clips, data.prompts,
                jnp.arange(len(data.clips)), jax.random.key(0),
            )))  # fmt: skip
    lengths = [len(batch(step).clips[0]) for step in (0, 1)]
    long, short = lengths.index(max(lengths)), lengths.index(min(lengths))
    assert lengths[long] > lengths[short]
    assert losses[long] != losses[2 + long] and losses[short] == losses[2 + short]
