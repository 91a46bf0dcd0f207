"""config.py: presets build, what cannot work is refused, keys differ, JSON brings all back.

Lesson 15.
"""

import copy
import dataclasses
import itertools
import json
import math
import re
from dataclasses import replace
from typing import get_args, get_type_hints

import equinox as eqx
import jax
import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from tiny import CONFIG

from tinygif.config import (
    LIMITS,
    MODELS,
    PRESETS,
    Config,
    DataConfig,
    DiffusionConfig,
    SampleConfig,
    TextConfig,
    TrainConfig,
    from_dict,
    named_keys,
)
from tinygif.errors import TinygifError
from tinygif.guidance import GUIDANCE_HELP
from tinygif.schedule import SCHEDULES
from tinygif.unet import UNetConfig

SECTIONS = ("data", "text", "model", "diffusion", "train", "sample")


def changed(section: str, config: Config = CONFIG, **fields) -> Config:
    """The config with other values in one of its sections; their types are not checked."""
    part = copy.copy(getattr(config, section))
    for name, value in fields.items():
        object.__setattr__(part, name, value)
    return replace(config, **{section: part})


# ---- presets ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_preset_builds(name):
    config = PRESETS[name]
    config.check()
    assert config.preset == name in get_args(get_type_hints(Config)["preset"])
    d = config.data
    model = eqx.filter_eval_shape(lambda: config.init(9, key=jax.random.key(0)))
    x = jax.ShapeDtypeStruct((d.frames, d.channels, d.size, d.size), np.float32)
    ids = jax.ShapeDtypeStruct((config.text.max_tokens,), np.int32)
    out = eqx.filter_eval_shape(model, x, jax.ShapeDtypeStruct((), np.float32), ids)
    assert out.shape == x.shape
    assert config.diffusion.build().T == config.diffusion.diffusion_steps
    assert type(config.model) is MODELS[config.model.model]


def test_a_tower_gives_the_widths_of_the_layers_on_top_of_it():
    config = changed("text", text="bert", text_dims=(24, 20))
    model = eqx.filter_eval_shape(lambda: config.init(9, key=jax.random.key(0)))
    assert model.text.states.in_features == 24 and model.text.pooled.in_features == 20


def test_guidance_is_explained_in_one_way():
    """train.py's help shows what the field carries: the sentence of sample.py and metrics."""
    field = get_type_hints(SampleConfig, include_extras=True)["guidance"]
    assert [doc.documentation for doc in field.__metadata__] == [GUIDANCE_HELP]


def test_nothing_can_be_changed_in_place():
    for part in (Config(), *(getattr(CONFIG, section) for section in SECTIONS)):
        name = dataclasses.fields(part)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, name, None)


# ---- what is refused -------------------------------------------------------------------------

REFUSED = [
    ("data", dict(size=18), "a size that is a multiple of 4 .*, got 18"),
    ("data", dict(size=0), "size from 1 to \\S+, got 0"),
    ("data", dict(frames=5), "multiple of 2, .*, got 5"),
    ("data", dict(frames=-2), "frames from 1 to \\S+, got -2"),
    ("data", dict(fps=60), "fps <= 50, got 60"),
    ("data", dict(fps=0), "fps <= 50, got 0"),
    ("text", dict(text_width=0), "text_width from 4 to \\S+, got 0"),
    ("text", dict(text_depth=-1), "text_depth from 0 to \\S+, got -1"),
    ("text", dict(max_tokens=0), "max_tokens from 1 to \\S+, got 0"),
    ("model", dict(heads=0), "heads from 1 to \\S+, got 0"),
    ("model", dict(head_dim=0), "head_dim from 2 to \\S+, got 0"),
    ("model", dict(head_dim=3), "an even head_dim, got 3"),
    ("model", dict(width=0), "width from 1 to \\S+, got 0"),
    ("model", dict(patch=0), "patch from 1 to \\S+, got 0"),
    ("model", dict(time_patch=0), "time_patch from 1 to \\S+, got 0"),
    ("model", dict(blocks=0), "blocks from 1 to \\S+, got 0"),
    ("model", dict(multipliers=(1, 0)), r"multipliers from 1 to 256, got \(1, 0\)"),
    ("model", dict(multipliers=()), "1 to 12 multipliers, got 0"),
    ("model", dict(levels=("time",)), "for each of 2 multipliers"),
    ("model", dict(levels=("time", "tim")), "joined by \\+, got 'tim'"),
    ("model", dict(levels=("time", "time+time")), "at most once"),
    ("model", dict(middle=("linear",)), "joined by \\+, got 'linear'"),
    ("diffusion", dict(diffusion_steps=1), "diffusion_steps from 2 to \\S+, got 1"),
    ("diffusion", dict(shift=0.0), "shift .*got 0.0"),
    ("diffusion", dict(shift=-1.0), "shift .*got -1.0"),
    ("diffusion", dict(drop_text=2.0), "drop_text from 0 to 1, got 2.0"),
    ("diffusion", dict(drop_text=-0.1), "drop_text from 0 to 1, got -0.1"),
    ("diffusion", dict(gamma=-1.0), "gamma from 0 to \\S+, got -1.0"),
    ("diffusion", dict(logit_normal=(0.0, 0.0)), "positive deviation in logit_normal"),
    ("diffusion", dict(schedule="rectified", predict="eps"), "cannot start from pure noise"),
    ("train", dict(steps=0), "steps from 1 to \\S+, got 0"),
    ("train", dict(minutes=-1.0), "minutes .*got -1.0"),
    ("train", dict(minutes=0.0, steps=None), "minutes .*got 0.0"),
    ("train", dict(batch_size=0), "batch_size from 1 to \\S+, got 0"),
    ("train", dict(accumulate=0), "accumulate from 1 to \\S+, got 0"),
    ("train", dict(accumulate=3), "batch_size that is a multiple of accumulate, 3, got 8"),
    ("train", dict(short_frames=3), "multiple of 2, .*, got 3"),
    ("train", dict(short_frames=8), "short_frames from 1 to 4, got 8"),
    ("train", dict(short_frames=0), "short_frames from 1 to 4, got 0"),
    ("train", dict(short_share=3.0), "short_share from 0 to 1, got 3.0"),
    ("train", dict(ema=1.0), "an ema below 1, .*, got 1.0"),
    ("train", dict(ema=1.5), "ema from 0 to 1, got 1.5"),
    ("train", dict(ema=math.nan), "ema from 0 to 1, got nan"),
    ("train", dict(clip=-1.0), "clip .*got -1.0"),
    ("train", dict(learning_rate=math.inf), "learning_rate .*got inf"),
    ("train", dict(learning_rate=-1e-3), "learning_rate from 0 to \\S+, got -0.001"),
    ("train", dict(muon_rate=-1.0), "muon_rate from 0 to \\S+, got -1.0"),
    ("train", dict(weight_decay=-1.0), "weight_decay from 0 to \\S+, got -1.0"),
    ("train", dict(warmup=-1), "warmup from 0 to \\S+, got -1"),
    ("train", dict(seed=-1), "seed from 0 to 4294967295, got -1"),
    ("train", dict(sample_every=0), "sample_every from 1 to \\S+, got 0"),
    ("train", dict(save_every=0), "save_every from 1 to \\S+, got 0"),
    ("sample", dict(sample_steps=51), "between 1 and T=50 sampling steps, got 51"),
    ("sample", dict(sample_steps=0), "between 1 and T=50 sampling steps, got 0"),
    ("sample", dict(solver="euler"), "ddim.*ddpm.*dpmpp.*'euler'"),
    ("sample", dict(solver="ddpm", eta=0.5), "the ddim solver for eta, got 'ddpm'"),
    ("sample", dict(eta=1.5), "eta from 0 to 1, got 1.5"),
    ("sample", dict(guidance=-1.0), "guidance from 0 to \\S+, got -1.0"),
    ("sample", dict(guidance=math.nan), "guidance .*got nan"),
    ("sample", dict(dynamic_threshold=99.5), "dynamic_threshold from 0 to 1, got 99.5"),
]  # fmt: skip


@pytest.mark.parametrize(("section", "fields", "says"), REFUSED)
def test_what_cannot_work_is_refused_with_a_sentence(section, fields, says):
    config = changed(section, **fields)
    with pytest.raises(TinygifError, match=says):
        config.check()


def test_what_can_work_passes():
    CONFIG.check()
    Config().check()
    for section, fields in (("train", dict(ema=0.0, steps=None, warmup=0, short_frames=None)),
                            ("sample", dict(sample_steps=50, eta=0.0, dynamic_threshold=1.0)),
                            ("diffusion", dict(drop_text=1.0, predict="x0")),
                            ("model", dict(middle=(), levels=("conv+space+text+time", "")))):
        changed(section, **fields).check()


def test_every_number_has_limits():
    """A new field is in LIMITS, or is checked where its meaning is known."""
    elsewhere = {"fps", "channels", "digits", "sample_steps", "short_frames"}
    for section in SECTIONS:
        limits = UNetConfig.LIMITS if section == "model" else LIMITS
        for field in dataclasses.fields(getattr(CONFIG, section)):
            if re.search(r"\b(int|float)\b", str(field.type)) and field.name not in elsewhere:
                assert field.name in limits, field.name


@given(st.integers(-8, 70), st.integers(1, 4), st.integers(1, 3))
def test_sizes_are_refused_unless_they_fold(size, patch, levels):
    model = UNetConfig(patch=patch, multipliers=(1,) * levels, levels=("",) * levels)
    fold = patch * 2 ** (levels - 1)
    if size > 0 and size % fold == 0:
        return model.check(frames=1, size=size)
    with pytest.raises(TinygifError, match=f"a size that is a multiple of {fold} .*, got {size}"):
        model.check(frames=1, size=size)


@given(st.integers(-4, 20), st.integers(1, 5))
def test_frames_are_refused_unless_they_fold(frames, group):
    model = UNetConfig(time_patch=group, multipliers=(1,), levels=("",))
    if frames > 0 and frames % group == 0:
        return model.check(frames=frames, size=32)
    with pytest.raises(TinygifError, match=f"a multiple of {group}, .*, got {frames}"):
        model.check(frames=frames, size=32)


# ---- keys ------------------------------------------------------------------------------------


def test_the_keys_of_seeds_are_all_different():
    """Once the training key of a seed was the initial key of the next."""
    seeds = (0, 1, 2, 3, 2**32 - 1)
    keys = [jax.random.key_data(key).tolist() for seed in seeds for key in named_keys(seed)]
    keys += [jax.random.key_data(jax.random.key(seed)).tolist() for seed in seeds]
    assert len({tuple(key) for key in keys}) == len(keys) == 30
    again = [jax.random.key_data(key).tolist() for key in named_keys(0)]
    assert again == keys[:5] and named_keys(0)._fields == (
        "init", "train", "data", "sample", "codec",
    )  # fmt: skip


def test_what_descends_from_the_keys_is_different_too():
    """Children of different keys: those of fold_in at a step, and those of split."""
    children = []
    for key in itertools.chain(*(named_keys(seed) for seed in (0, 1))):
        children += [jax.random.fold_in(key, i) for i in range(5)] + list(jax.random.split(key))
    data = {tuple(jax.random.key_data(key).tolist()) for key in children}
    # split(key, 2) and fold_in(key, 0), fold_in(key, 1) are the same: never do both with one key
    assert len(data) == 10 * 5


def test_the_noise_of_sampling_is_not_the_first_word_embedding():
    """At one seed both were the same numbers."""
    from tinygif.pipeline import Pipeline

    table = lambda seed: np.ravel(jax.jit(  # noqa: E731
        lambda key: CONFIG.init(len(tiny.TOKENIZER), key=key).text.embedding
    )(named_keys(seed).init))  # fmt: skip
    pipeline, noises = Pipeline(tiny.model(), CONFIG, tiny.DATA.words), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinygif.sampler.trajectory", lambda *args, **_: noises.append(args[2]) or [])
        pipeline.denoising(tiny.PROMPTS, seed=0)
    noise = np.asarray(noises[0])
    assert noise.shape == (2, 4, 1, 16, 16) and abs(noise.std() - 1) < 0.1
    assert abs(table(0).std() - 1) < 0.1 and not np.allclose(table(0), table(1))
    assert not set(noise.ravel().tolist()) & set(table(0).tolist())


@pytest.mark.parametrize("seed", [-1, 2**32, 2**70])
def test_a_seed_has_32_bits(seed):
    """JAX would drop the rest, and two seeds would be the same."""
    with pytest.raises(TinygifError, match=f"seed from 0 to 4294967295, got {seed}"):
        named_keys(seed)


# ---- JSON ------------------------------------------------------------------------------------

kinds = st.lists(st.sampled_from(["", "time", "space+text"]), max_size=4).map(tuple)
values = st.fixed_dictionaries({
    "data": st.fixed_dictionaries({
        "size": st.integers(1, 99), "channels": st.sampled_from([1, 3]), "hold_out": st.booleans(),
        "digit_size": st.none() | st.integers(4, 9), "mnist_dir": st.none() | st.text(),
    }),
    "text": st.fixed_dictionaries({
        "text_dims": st.none() | st.tuples(st.integers(1, 9), st.integers(1, 9)),
    }),
    "model": st.fixed_dictionaries({
        "multipliers": st.lists(st.integers(0, 3), max_size=4).map(tuple), "levels": kinds,
        "middle": kinds, "pixel_shuffle": st.booleans(),
    }),
    "diffusion": st.fixed_dictionaries({
        "shift": st.floats(0.1, 9), "measure": st.sampled_from([None, "eps", "x0"]),
        "logit_normal": st.none() | st.tuples(st.floats(-2, 2), st.floats(0.1, 2)),
    }),
    "train": st.fixed_dictionaries({
        "minutes": st.none() | st.floats(0.01, 99), "seed": st.integers(0, 2**32 - 1),
    }),
    "sample": st.fixed_dictionaries({"eta": st.none() | st.floats(0, 1)}),
})  # fmt: skip


@given(values)
def test_a_config_survives_json(values):
    config = Config(
        data=DataConfig(**values["data"]), text=TextConfig(**values["text"]),
        model=UNetConfig(**values["model"]), diffusion=DiffusionConfig(**values["diffusion"]),
        train=TrainConfig(**values["train"]), sample=SampleConfig(**values["sample"]),
    )  # fmt: skip
    back = from_dict(Config, json.loads(json.dumps(dataclasses.asdict(config))))
    assert back == config and hash(back) == hash(config)  # lists would not be hashable


def test_fields_left_out_get_defaults_and_unknown_ones_are_refused():
    assert from_dict(Config, {"data": {"size": 64}}) == Config(data=DataConfig(size=64))
    with pytest.raises(TinygifError, match=r"DataConfig: .*size.*unknown fields: \['colour'\]"):
        from_dict(Config, {"data": {"colour": 1}})


HOSTILE = [
    ("diffusion", "diffusion_steps", 1e12), ("diffusion", "diffusion_steps", 10**12),
    ("diffusion", "diffusion_steps", "1000"), ("diffusion", "diffusion_steps", True),
    ("diffusion", "schedule", "sudden"), ("diffusion", "shift", math.inf),
    ("diffusion", "shift", math.nan), ("diffusion", "shift", 1e308),
    ("diffusion", "logit_normal", [1.0]), ("diffusion", "logit_normal", [0.0, math.nan]),
    ("model", "model", "mamba"), ("model", "model", ["unet"]), ("model", "width", 10**9),
    ("model", "width", [64]), ("model", "width", None), ("model", "multipliers", 3),
    ("model", "multipliers", [1, 10**9]), ("model", "multipliers", [1] * 10**5),
    ("model", "multipliers", [1.0, 2.0]), ("model", "levels", "time"), ("model", "levels", [3]),
    ("model", "middle", [""] * 1000), ("model", "blocks", 10**5), ("model", "pixel_shuffle", "yes"),
    ("text", "text_depth", 10**6), ("text", "max_tokens", 10**9), ("text", "text_width", 10**9),
    ("text", "text_dims", [10**9, 1]), ("text", "text_dims", [64]), ("text", "text", 7),
    ("data", "size", 10**6), ("data", "frames", -5), ("data", "channels", True),
    ("data", "hold_out", "no"), ("data", "dataset", None), ("data", "fps", {}),
    ("train", "seed", 2**70), ("train", "accumulate", 10**6), ("train", "bfloat16", 1),
    ("sample", "guidance", "3"), ("sample", "solver", ["ddpm"]), ("sample", "eta", -1.0),
]  # fmt: skip


@pytest.mark.parametrize(("section", "name", "value"), HOSTILE)
def test_a_hostile_value_is_refused_by_its_name(section, name, value):
    """In a sentence that is short, however long the value is."""
    with pytest.raises(TinygifError, match=f"expected .*{name}.*, got ") as error:
        from_dict(Config, {section: {name: value}}).check()
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("value", [None, [], "{", 3, {"data": []}, {"train": "fast"}])
def test_what_is_no_dictionary_is_refused(value):
    with pytest.raises(TinygifError, match="expected a dictionary of the fields of .*Config, got"):
        from_dict(Config, value)


# ---- the schedule ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SCHEDULES)
def test_every_schedule_can_be_named(kind):
    plain = DiffusionConfig(schedule=kind, diffusion_steps=50).build()
    np.testing.assert_array_equal(plain.alpha, SCHEDULES[kind](50).alpha)
    assert plain.flow == (kind == "rectified")


def test_zero_snr_and_shift_are_applied():
    plain, zero, moved, both = (
        DiffusionConfig(schedule="linear", diffusion_steps=50, zero_snr=z, shift=s).build()
        for z, s in [(False, 1.0), (True, 1.0), (False, 3.0), (True, 3.0)]
    )
    assert plain.alpha[-1] > 0 and zero.alpha[-1] == 0 and both.alpha[-1] == 0
    for before, after in [(plain, moved), (zero, both)]:
        ratio = lambda s: np.asarray(s.sigma)[1:-1] / np.asarray(s.alpha)[1:-1]  # noqa: E731
        np.testing.assert_allclose(ratio(after), 3 * ratio(before), rtol=1e-4)
