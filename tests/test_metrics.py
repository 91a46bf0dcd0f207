"""metrics/: tables, intervals and distances that can be checked by hand. Lesson 18."""

import itertools
import json
import runpy
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import jax
import numpy as np
import pytest
import tiny
import towers
from hypothesis import given
from hypothesis import strategies as st

import tinygif.metrics
from tinygif import checkpoint
from tinygif.clips import Settings, prepare_clips
from tinygif.config import DataConfig
from tinygif.errors import TinygifError
from tinygif.gif import read_gif, write_gif
from tinygif.metrics import evaluation
from tinygif.metrics.evaluation import evaluate, sample_clips, sweep
from tinygif.metrics.free_prompts import free_prompts
from tinygif.metrics.nearest_clip import compare_clips
from tinygif.metrics.oracle import read_digits, views_of
from tinygif.metrics.prompts import (
    MISTAKES,
    are_trained_on,
    compare,
    draw_clips,
    judge,
    make_captions,
    parse_caption,
    tell_mistake,
    unseen_data,
)
from tinygif.metrics.report import Evaluation, format_report, write_failures
from tinygif.metrics.stats import (
    consistency,
    constancy,
    distances,
    evenly,
    first_digits,
    frechet,
    memorisation,
    nearest_digit,
    rms_distances,
    wilson,
)
from tinygif.moving_mnist import (
    DIGIT_COLORS,
    DIRECTIONS,
    HELD_OUT,
    NAMES,
    SPEEDS,
    WORDS,
    MovingMNIST,
    wordings,
)
from tinygif.pipeline import GeneratedClips, Pipeline
from tinygif.shapes import MOTIONS, Plan, draw_shape
from tinygif.text import split

CONFIG = DataConfig(mnist_dir="bundled")
DATA = MovingMNIST(CONFIG, held_out=True)
ONE = st.tuples(
    st.integers(0, 9), st.sampled_from(list(DIRECTIONS)), st.sampled_from(list(SPEEDS))
).map(lambda one: (*one[:2], "" if one[1] == "still" else one[2]))
SEEDS = st.integers(0, 2**20)


# ---- what is expected ------------------------------------------------------------------------


@given(st.lists(ONE, min_size=1, max_size=2), st.sampled_from(["", *DIGIT_COLORS]), SEEDS)
def test_every_caption_of_the_data_can_be_parsed(digits, color, seed):
    rng = np.random.default_rng(seed)
    said = " and ".join(str(rng.choice(wordings(*one, color))) for one in digits)
    assert parse_caption(said) == tuple(digits)


@given(st.sampled_from([1, 2]), SEEDS)
def test_new_wordings_mean_the_same_and_no_caption_says_it_so(digits, seed):
    usual = make_captions(20, digits, CONFIG, seed)
    new = make_captions(20, digits, CONFIG, seed, reworded=True)
    for text in (part for sentence in new for part in sentence.split(" and ")):
        assert text not in wordings(*parse_caption(text)[0]) and set(split(text)) <= set(WORDS)
    if digits == 1:
        assert [*map(parse_caption, new)] == [*map(parse_caption, usual)]


def test_the_shipped_model_knows_the_words_that_it_is_asked_in():
    known = set(tinygif.load("moving_mnist").reader.words)
    asked = [text for n in (1, 2) for text in make_captions(270, n, CONFIG)]
    assert {word for text in asked for word in split(text)} <= known


@pytest.mark.parametrize("sentence", ["", "a dog moving left", "a 3", "a 3 4 moving up", "a 3 a"])
def test_other_sentences_are_refused(sentence):
    with pytest.raises(TinygifError, match="expected one digit and one direction"):
        parse_caption(sentence)


def test_all_pairs_take_turns():
    moving = [one for text in make_captions(270, 1, CONFIG) for one in parse_caption(text)]
    assert set(Counter(one[:2] for one in moving).values()) == {3}
    speeds = Counter(one[1:] for one in moving if one[1] != "still")
    assert len(speeds) == 24 and set(speeds.values()) == {10}
    assert (
        make_captions(50, 1, CONFIG, seed=1)
        == make_captions(50, 1, CONFIG, seed=1)
        != make_captions(50, 1, CONFIG, seed=2)
    )


def test_two_digits_avoid_the_pairs_held_out():
    clips = [parse_caption(text) for text in make_captions(300, 2, CONFIG, avoid=HELD_OUT)]
    assert {len(digits) for digits in clips} == {2}
    pairs = {one[:2] for digits in clips for one in digits}
    assert len(pairs) == 90 - len(HELD_OUT) and not pairs & set(HELD_OUT)


def test_colours_are_named_where_there_are_any():
    sentences = make_captions(12, 1, replace(CONFIG, channels=3))
    assert {word for text in sentences for word in text.split()} >= set(DIGIT_COLORS)
    data = MovingMNIST(replace(CONFIG, channels=3), held_out=True)
    clips, _ = draw_clips(data, ["a red 3 moving up", "a blue 3 moving up"])
    assert [clip.max((0, 1, 2)).argmax() for clip in clips] == [0, 2]


def test_real_clips_are_what_their_captions_say():
    captions = ["a 3 moving left", "a 1 standing still and a 3 moving right slowly"]
    clips, overlaps = draw_clips(DATA, captions, seed=2)
    np.testing.assert_array_equal(clips, draw_clips(DATA, captions, seed=2)[0])
    assert (clips != draw_clips(DATA, captions, seed=3)[0]).any()
    assert overlaps[0] == 0 and 0 <= overlaps[1] <= 1
    columns = np.arange(32) @ clips[0, ..., 0].astype(float).sum(1).T / clips[0].sum((1, 2, 3))
    assert (np.diff(columns)[:8] < 0).all()


# ---- what is right ---------------------------------------------------------------------------


@given(st.lists(ONE, min_size=1, max_size=2), st.data())
def test_what_is_expected_is_right_in_any_order(expected, data):
    found = data.draw(st.permutations(expected))
    assert compare(expected, found) == (True, True, True, True)


@given(ONE, ONE)
def test_a_digit_too_many_or_too_few_is_not_all_right(one, other):
    assert compare([one], [other, one]) == (True, True, True, False)
    assert compare([one, other], [one]) == (False, False, False, False)
    assert compare([one], []) == (False, False, False, False)


@given(ONE, ONE)
def test_every_column_is_judged_for_itself(expected, found):
    parts = tuple(a == b for a, b in zip(expected, found))
    assert compare([expected], [found]) == (*parts, all(parts))


def test_the_pairing_that_agrees_best_counts():
    expected = [(3, "left", ""), (5, "up", "")]
    assert compare(expected, [(5, "up", "slowly"), (3, "left", "")]) == (True, True, False, False)
    assert compare(expected, [(5, "left", ""), (3, "up", "")]) == (True, False, True, False)


# ---- intervals -------------------------------------------------------------------------------


@given(st.integers(1, 400), st.data())
def test_an_interval_holds_its_share_and_narrows(n, data):
    right = data.draw(st.integers(0, n))
    low, high = wilson(right, n)
    assert 0 <= low <= right / n + 1e-12 and right / n - 1e-12 <= high <= 1
    less, more = wilson(4 * right, 4 * n)
    assert more - less < high - low
    np.testing.assert_allclose(wilson(n - right, n), (1 - high, 1 - low), atol=1e-9)


def test_a_known_interval():
    np.testing.assert_allclose(wilson(5, 10), (0.2366, 0.7634), atol=1e-4)
    np.testing.assert_allclose(wilson(0, 10), (0, 0.2775), atol=1e-4)


# ---- distances -------------------------------------------------------------------------------


def cloud(seed: int, n: int = 50, d: int = 4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)


@given(SEEDS, st.floats(-3, 3), st.floats(0.1, 3))
def test_frechet_distance_of_gaussians_in_closed_form(seed, shift, scale):
    x = cloud(seed)
    np.testing.assert_allclose(frechet(x, x[::-1]), 0, atol=1e-6)
    np.testing.assert_allclose(frechet(x, x + shift), 4 * shift**2, atol=1e-6)
    middle, spread = x.mean(0), np.cov(x.T).trace()
    wider = middle + scale * (x - middle)
    np.testing.assert_allclose(frechet(x, wider), (1 - scale) ** 2 * spread, atol=1e-6 * spread)


@given(SEEDS)
def test_frechet_distance_is_symmetric_and_blind_to_rotation(seed):
    x, y = cloud(seed), cloud(seed + 1)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(4, 4)))
    distance = frechet(x, y)
    assert distance > 0
    np.testing.assert_allclose(frechet(y, x), distance, rtol=1e-6)
    np.testing.assert_allclose(frechet(x @ turn, y @ turn), distance, rtol=1e-6)


def test_a_training_digit_is_found_again_and_noise_is_not():
    digits = DATA.images[:40]
    views = views_of(digits)
    np.testing.assert_allclose(nearest_digit(views, digits), 0, atol=2e-3)
    np.testing.assert_allclose(nearest_digit(np.roll(views, (1, -1), (1, 2)), digits), 0, atol=2e-3)
    noise = np.random.default_rng(0).random((3, 20, 20)).astype(np.float32)
    by_hand = [
        min(np.sqrt(((view[1:-1, 1:-1] - x[i : i + 18, j : j + 18]) ** 2).mean())
            for view in views for i, j in itertools.product(range(3), repeat=2))
        for x in noise
    ]  # fmt: skip
    np.testing.assert_allclose(nearest_digit(noise, digits), by_hand, rtol=1e-3)


def test_clips_without_a_digit_are_left_out_and_counted():
    """Otherwise the last of all paths would be theirs, and a black square their digit."""
    clips, _ = draw_clips(DATA, make_captions(10, 1, CONFIG))
    with_dark = np.concatenate([clips[:4] * 0, clips, clips[:3] * 0])
    (plain, mixed), real = map(read_digits, (clips, with_dark)), read_digits(clips[::-1])
    assert (mixed.digits >= 0).sum() == 10
    for measure in (
        lambda reading: distances(reading, real, real), lambda x: memorisation(x, real, CONFIG)
    ):  # fmt: skip
        wanted, found = measure(plain), measure(mixed)
        assert (wanted.pop("without a digit"), found.pop("without a digit")) == (0, 7)
        np.testing.assert_equal(jax.tree.leaves(found), jax.tree.leaves(wanted))
        assert measure(mixed[:8]) is None  # of four digits there is nothing to say
    fewer, other = distances(plain[:6], real, plain), distances(plain, real, plain[:6])
    assert fewer["real"] == other["real"] != distances(plain, real, plain)["real"]  # as many others


def test_the_second_path_counts_where_the_first_has_no_digit():
    reading = read_digits(draw_clips(DATA, ["a 3 moving up", "a 7 moving left"])[0], digits=2)
    swapped = reading[:, ::-1]
    assert (swapped.digits[:, 0] < 0).all() and (swapped.digits[:, 1] >= 0).all()
    for field in ("digits", "directions", "centres", "cutouts", "features"):
        one, two = (getattr(first_digits(x), field) for x in (reading, swapped))
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, getattr(reading, field)[:, :1])


def test_consistency_counts_frames():
    clips, _ = draw_clips(DATA, ["a 3 standing still", "a 0 standing still"])
    clips[0, :4] = clips[1, :4]  # a quarter of the first clip shows the other digit
    reading = read_digits(clips)
    assert reading.digits.tolist() == [[3], [0]]
    assert consistency(reading[1:]) == 100 and consistency(reading) < 100
    assert consistency(read_digits(clips * 0)) == 0


def test_constancy_is_1_for_a_digit_that_only_moves_and_less_for_one_that_changes():
    clips, _ = draw_clips(DATA, ["a 3 moving up quickly", "an 8 moving left", "a 3 moving left"])
    np.testing.assert_allclose(constancy(clips), 1, atol=1e-5)
    mixed = clips.copy()
    mixed[0, 8:] = clips[1, 8:]  # half of its frames show another digit
    assert constancy(mixed)[0] < 0.85 and constancy(mixed)[1] > 0.999
    assert constancy(clips * 0).tolist() == [0, 0, 0]


def test_clips_of_one_digit_are_read_strictly():
    """13 of 16 frames are too few; 14 are enough, but then the shape is not constant."""
    captions = ["a 3 standing still", "a 0 standing still"]
    clips, _ = draw_clips(DATA, captions)
    spoilt = [clips.copy() for _ in range(2)]
    for clip, frames in zip(spoilt, (3, 2)):
        clip[0, :frames] = clips[1, :frames]
    rights = [judge(x, captions, CONFIG).right.tolist() for x in (clips, *spoilt)]
    assert rights[0] == [[True] * 4] * 2
    assert rights[1][0] == [False, True, True, False] and rights[1][1] == [True] * 4
    assert rights[2][0] == [True, True, True, False]


def test_evenly_spread_indices_are_distinct():
    assert evenly(7, 20).tolist() == list(range(7))
    assert evenly(7, 3).tolist() == [0, 3, 6] and evenly(1, 3).tolist() == [0]


# ---- a whole evaluation ----------------------------------------------------------------------


class Parrot(Pipeline):
    """Answers prompts with the clips of a function."""

    path = None

    def __init__(self, data, answer):
        self.config, self.answer = replace(tiny.CONFIG, data=data), answer

    def __call__(self, prompts, seed, progress, **choices):
        list(progress(range(2), 2))
        return GeneratedClips(self.answer(prompts), prompts, 8)


def digit_parrot(digits: int = 1) -> Parrot:
    """Training digits; where a nine is asked for, black clips."""
    data = MovingMNIST(replace(CONFIG, digits=digits))

    def answer(captions):
        dark = np.array(["9" in text or "nine" in text for text in captions])
        return draw_clips(data, captions, 7)[0] * ~dark[:, None, None, None, None]

    return Parrot(data.config, answer)


@pytest.fixture(scope="module")
def parroted(tmp_path_factory):
    out = tmp_path_factory.mktemp("parrot") / "metrics"
    return evaluate(digit_parrot(), count=60, out=out), out


def test_a_parrot_is_right_but_for_its_nines(parroted):
    row = parroted[0]["table"]["one digit, all"]
    assert row["generated"]["n"] == row["real"]["n"] == 60
    assert 84 <= row["generated"]["digit"]["percent"] <= 90  # six of sixty are dark
    assert row["generated"]["direction"]["percent"] == 90
    assert row["real"]["direction"]["percent"] == row["real"]["speed"]["percent"] == 100
    cell = row["generated"]["all right"]
    assert cell["low"] < cell["percent"] < cell["high"]
    parts = [parroted[0]["table"][name]["real"]["n"] for name in evaluation.ROWS[:2]]
    assert sum(parts) == 60 and parts[1] == sum(
        parse_caption(clip["prompt"])[0][:2] in HELD_OUT for clip in parroted[0]["clips"]
    )
    assert list(parroted[0]["table"]) == list(evaluation.ROWS[:3])
    assert parroted[0]["mistakes"] is None


def test_a_parrot_is_caught_copying(parroted):
    near = parroted[0]["nearest"]
    assert near["ratio"]["median"] < 0.1 and near["real"]["1%"] > 0.02
    assert near["training digits"] == 1437


@pytest.mark.parametrize("digits_hash", [None, "0" * 64])
def test_copies_of_digits_that_are_not_here_cannot_be_found(digits_hash):
    """Trained on others than those of this machine, or before checkpoints said on which."""
    data = MovingMNIST(CONFIG).config
    assert data.digits_hash is not None and are_trained_on(data, data)
    other = replace(data, digits_hash=digits_hash)
    assert not are_trained_on(data, other) and not are_trained_on(other, other)


def test_without_its_training_digits_a_model_is_evaluated_all_the_same():
    """The shipped one, say, on a machine without MNIST."""
    parrot = digit_parrot()
    parrot.config = replace(parrot.config, data=replace(parrot.config.data, digits_hash="0" * 64))
    result = evaluate(parrot, count=20)
    assert result["nearest"] is None and result["table"]["one digit, all"]["generated"]["n"] == 20
    text = format_report(result)
    assert "nearest training digit: does not apply" in text and "Frechet distance to" in text


def test_the_distance_of_real_clips_is_less_than_that_of_clips_without_nines(parroted):
    assert 0 < parroted[0]["frechet"]["real"] < parroted[0]["frechet"]["generated"]
    assert parroted[0]["consistency"]["real"] > 97


def test_failures_are_drawn_and_listed(parroted):
    result, out = parroted
    assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(result))
    dark = [clip for clip in result["clips"] if clip["observed"] == "-"]
    assert len(dark) == 6 and not any(clip["right"] for clip in dark)
    assert (out / "clips.gif").exists()
    frames, _ = read_gif(out / "failures.gif")
    assert len(frames) == 16


def test_only_failures_are_drawn(tmp_path):
    """Clips of gray levels that no caption has; an old picture goes when all is right."""
    levels = np.array([50, 100, 150], np.uint8)
    clips = np.ones((3, 2, 8, 8, 1), np.uint8) * levels[:, None, None, None, None]
    rows = [dict(expected="a", observed="b", right=level == 100) for level in levels]
    path = tmp_path / "failures.gif"
    write_failures(path, Evaluation(["a"] * 3, clips, clips, {"clips": rows}), 8)
    counts = [(read_gif(path)[0] == level).sum() for level in levels]
    assert counts[0] > 50 < counts[2] and counts[1] < 50
    write_failures(path, Evaluation(["a"], clips[1:2], clips, {"clips": rows[1:2]}), 8)
    assert not path.exists()


def test_the_report_is_complete(parroted):
    text = format_report(parroted[0])
    names = "real clips", "Frechet", "no FVD", "training digits", "bundled"
    assert all(name in text for name in (*evaluation.ROWS[:3], *names))
    assert "without a digit, left out of the Frechet distance and of the nearest digit: 6" in text
    assert text.count("does not apply") == 0 and max(map(len, text.splitlines())) < 140


@pytest.mark.slow
def test_two_digits_are_asked_for_where_they_were_trained():
    result = evaluate(digit_parrot(digits=2), count=20)
    table = result["table"]
    assert table["one digit, all"]["real"]["n"] == table["two digits, all"]["generated"]["n"] == 10
    assert table["two digits, held-out pairs"]["real"]["n"] == 2
    assert sum(result["mistakes"].values()) <= 100
    assert "percent of clips: exchanged" in format_report(result)
    parts = [table[name]["real"] for name in evaluation.OVERLAP]
    assert sum(part["n"] for part in parts if part) == 10
    assert all(name in format_report(result) for name, x in zip(evaluation.OVERLAP, parts) if x)


A, B = (3, "up", ""), (5, "left", "slowly")


@pytest.mark.parametrize("seen, mistake", [
    ([A, B], None), ([B, A], None), ([A], "one missing"), ([], "one missing"),
    ([(5, "up", ""), (3, "left", "slowly")], "exchanged"),
    ([A, (3, "left", "slowly")], "same digit twice"), ([A, (7, "left", "slowly")], "wrong digit"),
    ([A, (5, "right", "slowly")], "wrong motion"), ([A, (5, "left", "")], "wrong motion"),
    ([A, (7, "right", "")], "both"),
])  # fmt: skip
def test_mistakes_with_two_digits_are_told_apart(seen, mistake):
    assert tell_mistake([A, B], seen) == mistake
    assert mistake is None or mistake in MISTAKES


def test_a_held_out_pair_is_asked_for_beside_another():
    for text in make_captions(60, 2, CONFIG, avoid=HELD_OUT, first=HELD_OUT):
        held = [moving[:2] in HELD_OUT for moving in parse_caption(text)]
        assert held == [True, False]


def test_free_prompts_use_new_words_for_captions_that_can_be_judged():
    prompts, captions = free_prompts()
    assert len(set(prompts)) == len(prompts) == 160
    assert all(set(split(text)) - set(WORDS) for text in prompts)
    for text, said in zip(prompts, captions):
        ((digit, way, speed),) = parse_caption(said)
        assert (str(digit) in text or NAMES[digit] in text) and speed == ""
        assert way in text or {"up": "top", "down": "bottom"}[way] in text


def test_without_a_tower_free_prompts_are_new_sentences_of_known_words():
    """By a parrot that draws what is meant, but a nine as black."""
    parrot = digit_parrot()
    result = evaluate(parrot, count=40, free_prompts=True)
    row = result["table"]["new wordings"]
    assert row["real"]["direction"]["percent"] == 100 and row["generated"]["n"] == 40
    assert row["generated"]["direction"]["percent"] == 90
    assert all(set(split(clip["prompt"])) <= set(WORDS) for clip in result["clips"])


def test_free_prompts_are_judged_by_what_they_mean():
    """By a parrot that knows the fourth sentence only, and goes left at all others."""
    meaning = dict(zip(*free_prompts()))
    data = MovingMNIST(CONFIG)

    def answer(prompts):
        known = [meaning[text] if "heading" in text else "a 0 moving left" for text in prompts]
        return draw_clips(data, known, 7)[0]

    parrot = Parrot(CONFIG, answer)
    parrot.config = replace(parrot.config, text=replace(parrot.config.text, text="clip"))
    result = evaluate(parrot, count=32, free_prompts=True)
    *rows, everything = result["table"].values()
    assert [row["generated"]["n"] for row in rows] == [8, 8, 8, 8]
    percent = [row["generated"]["direction"]["percent"] for row in rows]
    assert percent[3] == 100 and max(percent[:3]) < 40 and everything["real"]["n"] == 32
    assert all(meaning[clip["prompt"]] and clip["expected"] for clip in result["clips"])
    assert "{digit}, heading {ward}" in format_report(result)


def test_shapes_are_measured_in_their_pixels(tmp_path):
    """By a parrot that draws squares for circles."""
    phrases = {phrases[0]: name for name, phrases in MOTIONS.items()}

    def answer(prompts):
        clips, rng = [], np.random.default_rng(1)
        for text in prompts:
            _, color, shape, *motion, _, _, background, _ = text.split()
            shape = "square" if shape == "circle" else shape
            plan = Plan(shape, color, background, phrases[" ".join(motion)])
            clips.append(draw_shape(plan, rng, 16, 32))
        return np.stack(clips)

    data = DataConfig(dataset="shapes", channels=3)
    result = evaluate(Parrot(data, answer), count=40, out=tmp_path)
    circles = sum("circle" in clip["expected"].split()[0] for clip in result["clips"])
    assert 0 < circles < 20
    generated, real = (result["table"]["shapes"][name] for name in ("generated", "real"))
    assert {cell["percent"] for name, cell in real.items() if name != "n"} == {100}
    for name, cell in generated.items():
        if name != "n":
            wrong = circles if name in ("shape", "all right") else 0
            assert cell["percent"] == pytest.approx(100 - 100 * wrong / 40)
    assert all(clip["right"] != ("circle" in clip["prompt"].split()[2]) for clip in result["clips"])
    assert len(read_gif(tmp_path / "failures.gif")[0]) == 16
    assert "background" in format_report(result)


def test_the_nearest_clip_tells_copies_from_new_ones():
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (6, 2, 4, 4, 3), np.uint8)
    new = rng.integers(0, 256, (6, 2, 4, 4, 3), np.uint8)
    by_hand = [[np.sqrt(((a / 1.0 - b) ** 2).mean()) for b in new] for a in clips]
    flat = (x.reshape(6, -1).astype(np.float32) for x in (clips, new))
    np.testing.assert_allclose(rms_distances(*flat), by_hand, rtol=1e-4)
    copied = compare_clips(clips ^ 1, clips, np.arange(6))
    assert copied["generated to nearest training clip, median"] == pytest.approx(1, abs=0.05)
    same = "nearest is the one with the same caption, %"
    assert copied["copies, %"] == copied[same] == 100
    others = compare_clips(clips, clips, np.roll(np.arange(6), 1))
    assert others["copies, %"] == 100 and others[same] == 0
    fresh = compare_clips(new, clips, None)
    assert fresh["copies, %"] == 0 and same not in fresh
    far = fresh["training clip to its nearest other one, median"]
    assert far == pytest.approx(np.sqrt((256**2 - 1) / 6), rel=0.2)


@pytest.mark.parametrize("unconditional", [False, True])
def test_clips_like_those_of_a_folder_are_compared_with_them(tmp_path, unconditional):
    """By a parrot that knows its clips by heart."""
    rng, source = np.random.default_rng(0), tmp_path / "source"
    source.mkdir()
    for i, word in enumerate(("cat", "dog", "cow", "hen")):
        clip = np.kron(rng.integers(0, 256, (2, 2, 2, 1)), np.ones((1, 4, 4, 1))).astype(np.uint8)
        write_gif(source / f"{i}.gif", clip, 10)
        (source / f"{i}.txt").write_text(f"a {word} and a {word}")
    folder = prepare_clips(source, tmp_path / "folder", Settings(8, 2), workers=1)
    data = DataConfig(str(folder), size=8, frames=2, channels=3, unconditional=unconditional)
    clips = np.load(folder / "clips.npy")
    words = ("cat", "dog", "cow", "hen")
    answer = lambda prompts: np.stack(  # noqa: E731
        [clips[words.index(text.split()[1])] if text else clips[0] for text in prompts]
    )
    result = evaluate(Parrot(data, answer), count=20)
    found = result["training clips"]
    assert found["copies, %"] == 100 and found["generated to nearest training clip, median"] < 0.1
    assert found.get("nearest is the one with the same caption, %", "none") == (
        "none" if unconditional else 100
    )
    assert "copies, %: 100.0" in format_report(result) and "4 training clips" in format_report(
        result
    )


@pytest.mark.parametrize("words", [dict(free_prompts=True), dict(clip_score="clip")])
def test_what_does_not_apply_is_refused_before_sampling(words, tmp_path):
    pipeline = Parrot(DataConfig(dataset="shapes", channels=3), None)
    if "free_prompts" in words:
        with pytest.raises(TinygifError, match="expected a checkpoint of moving_mnist for free"):
            evaluate(pipeline, **words)
        with pytest.raises(TinygifError, match="for a sweep, got one of shapes"):
            sweep(pipeline, "steps", tmp_path)
    else:
        with pytest.raises(TinygifError, match="hf download"):
            evaluate(pipeline, **words)


# ---- a model ---------------------------------------------------------------------------------


MIXED = replace(tiny.CONFIG, model=replace(tiny.CONFIG.model, levels=("conv+time", "time")))
"""With both kinds of layers that mix frames."""


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline(tiny.model(MIXED), MIXED, tiny.DATA.words)


@pytest.mark.parametrize("name, values", [("steps", (1, 51)), ("solver", ("ddim", "dpmpp")),
                                          ("temperature", (0.0, 1.0))])
def test_a_sweep_is_a_table_and_a_plot(pipeline, tmp_path, monkeypatch, name, values):
    """Of no more steps than the schedule has, and of the value that was asked for."""
    monkeypatch.setitem(evaluation.SWEEPS, name, values)
    rows = sweep(pipeline, name, tmp_path, count=20, steps=2)
    first, second, real = rows
    wanted = str(values[0]), {"steps": "2"}.get(name, str(values[1])), "real"
    assert (first, second, real) == wanted
    assert rows[real]["direction"]["percent"] > rows[first]["direction"]["percent"]
    assert json.loads((tmp_path / f"sweep_{name}.json").read_text()).keys() == rows.keys()
    assert (tmp_path / f"sweep_{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_clips_come_in_batches_of_one_size(pipeline, monkeypatch):
    """Of 20, as in the other tests: another size would be another compilation."""
    monkeypatch.setattr(evaluation, "BATCH", 20)
    prompts, sizes = [f"a {i % 10} moving left" for i in range(58)], []

    class Counting(Pipeline):
        def __call__(self, prompts, **options):
            sizes.append(len(prompts))
            return super().__call__(prompts, **options)

    counting = Counting(pipeline.model, pipeline.config, tiny.DATA.words)
    clips = sample_clips(counting, prompts, seed=3)
    assert sizes == [20, 20, 20] and clips.shape == (58, 4, 16, 16, 1)
    np.testing.assert_array_equal(clips[20:40], pipeline(prompts[20:40], seed=23).array)


def test_without_time_other_clips_come_out(pipeline):
    prompts = ["a 7 moving left"] * 20
    a, b = (sample_clips(pipeline, prompts, seed=0, no_time=x).astype(int) for x in (False, True))
    assert np.abs(a - b).max() > 1


def test_without_time_no_layer_mixes_frames_and_the_model_stays_as_it_was(pipeline):
    """Each last projection of both kinds is zero in the model that samples, and nothing else."""
    used = []

    class Looking(Pipeline):
        def __call__(self, prompts, **_):
            used.append(tiny.leaves(self.model))
            return GeneratedClips(np.zeros((len(prompts), 4, 16, 16, 1), np.uint8), prompts, 8)

    looking, before = Looking(pipeline.model, MIXED, tiny.DATA.words), tiny.leaves(pipeline.model)
    for no_time in (True, False):
        sample_clips(looking, ["a 7 moving left"], seed=0, no_time=no_time)
    cut = {name for name, leaf in used[0].items() if not np.array_equal(leaf, before[name])}
    parts = (".mixing.time.out.", ".mixing.conv.conv.")
    assert cut == {name for name in before if any(part in name for part in parts)}
    assert all(any(part in name for name in cut) for part in parts)
    assert not any(used[0][name].any() for name in cut)
    assert all(np.array_equal(leaf, before[name]) for name, leaf in used[1].items())


# ---- the command -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("metrics") / "tiny"
    folder.mkdir()
    checkpoint.write(folder / checkpoint.MODEL, tiny.model(), tiny.ABOUT)
    return folder


def call(*words: object) -> object:
    """The command in this process; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["metrics", *map(str, words)])
        try:
            runpy.run_module("tinygif.metrics", run_name="__main__")
        except SystemExit as stop:
            return stop.code
    return 0


def test_the_command_writes_beside_the_checkpoint(run, capsys, tmp_path):
    model = towers.write(tmp_path / "clip", towers.CLIP)
    words = ("--checkpoint", run, "--count", 20, "--no-time", "--clip-score", model)
    assert call(*words) == 0
    result = json.loads((run / "metrics" / "metrics.json").read_text())
    generated, real = result["clip score"]["generated"], result["clip score"]["real"]
    assert -1 < generated != real < 1
    assert result["settings"]["no_time"] and len(result["clips"]) == 20
    assert (run / "metrics" / "failures.gif").exists()
    printed = capsys.readouterr().out
    assert "one digit, all" in printed
    assert f"frames and prompt: {generated:.4f}, real {real:.4f}" in printed


@pytest.mark.parametrize(
    "words, sentence",
    [
        ((), "no checkpoint at nowhere"),
        (("--count", 3), "expected a count of at least 20, for the statistics, got 3"),
        (("--clip-score", "clip", "--sweep", "steps"), "leave --clip-score and --free-prompts out"),
        (("--clip-score", "bert"), "hf download google-bert/bert-base-cased"),
    ],
)
def test_mistakes_become_sentences(run, capsys, words, sentence):
    assert call("--checkpoint", run if words else "nowhere", *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("metrics: ") and sentence in error and "Traceback" not in error


def test_the_commands_start_without_a_warning():
    """The oracle's module must not be imported with its package."""
    words = [
        sys.executable,
        "-W",
        "error::RuntimeWarning",
        "-m",
        "tinygif.metrics.oracle",
        "--help",
    ]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0 and "--mnist-dir" in done.stdout


def test_every_name_of_the_package_is_there():
    for names in tinygif.metrics.NAMES.values():
        assert all(getattr(tinygif.metrics, name) for name in names.split())
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tinygif.metrics.nothing  # noqa: B018


def test_digits_of_a_folder_that_is_not_here_come_from_elsewhere():
    config = replace(CONFIG, mnist_dir="/a/folder/of/another/machine")
    assert unseen_data(config).source == "bundled"
