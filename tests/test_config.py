"""config.py: presets build, clips that cannot be folded are refused, JSON brings all back.

Lesson 15.
"""

import dataclasses
import json
from typing import get_args, get_type_hints

import equinox as eqx
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygif.config import (
    PRESETS,
    Config,
    DataConfig,
    DiffusionConfig,
    ModelConfig,
    TrainConfig,
    from_dict,
)
from tinygif.schedule import SCHEDULES
from tinygif.unet import TextToGif


@pytest.mark.parametrize("name", PRESETS)
def test_preset_builds(name):
    config = PRESETS[name]
    assert config.preset == name in get_args(get_type_hints(Config)["preset"])
    make = lambda: TextToGif(config.data, config.model, 9, key=jax.random.key(0))  # noqa: E731
    d, model = config.data, eqx.filter_eval_shape(make)
    x = jax.ShapeDtypeStruct((d.frames, d.channels, d.size, d.size), np.float32)
    ids = jax.ShapeDtypeStruct((config.model.max_tokens,), np.int32)
    out = eqx.filter_eval_shape(model, x, jax.ShapeDtypeStruct((), np.float32), ids)
    assert out.shape == x.shape
    assert config.diffusion.build().T == config.diffusion.diffusion_steps


@given(st.integers(-8, 70), st.integers(1, 4), st.integers(1, 3))
def test_sizes_are_refused_unless_they_fold(size, patch, levels):
    model = ModelConfig(patch=patch, multipliers=(1,) * levels)
    fold = patch * 2 ** (levels - 1)
    if size > 0 and size % fold == 0:
        return model.check(frames=1, size=size)
    with pytest.raises(ValueError, match=f"a size that is a multiple of {fold} .*, got {size}"):
        model.check(frames=1, size=size)


@given(st.integers(-4, 20), st.integers(1, 5))
def test_frames_are_refused_unless_they_fold(frames, group):
    model = ModelConfig(time_patch=group, multipliers=(1,))
    if frames > 0 and frames % group == 0:
        return model.check(frames=frames, size=32)
    with pytest.raises(ValueError, match=f"a multiple of {group}, .*, got {frames}"):
        model.check(frames=frames, size=32)


def test_a_batch_must_split_evenly():
    TrainConfig(batch_size=12, accumulate=3)
    with pytest.raises(ValueError, match="batch_size 16 must be a multiple of accumulate 3"):
        TrainConfig(batch_size=16, accumulate=3)


def test_nothing_can_be_changed_in_place():
    for part in (Config(), DataConfig(), ModelConfig(), DiffusionConfig(), TrainConfig()):
        name = dataclasses.fields(part)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, name, None)


# ---- JSON ------------------------------------------------------------------------------------

levels = st.lists(st.integers(0, 3), max_size=4).map(tuple)
values = st.fixed_dictionaries({
    "data": st.fixed_dictionaries({
        "size": st.integers(1, 99), "channels": st.sampled_from([1, 3]), "hold_out": st.booleans(),
        "digit_size": st.none() | st.integers(4, 9), "mnist_dir": st.none() | st.text(),
    }),
    "model": st.fixed_dictionaries({
        "multipliers": levels, "space_attention": levels, "pixel_shuffle": st.booleans()
    }),
    "diffusion": st.fixed_dictionaries({
        "shift": st.floats(0.1, 9), "measure": st.sampled_from([None, "eps", "x0"]),
        "logit_normal": st.none() | st.tuples(st.floats(-2, 2), st.floats(0.1, 2)),
    }),
    "train": st.fixed_dictionaries({
        "minutes": st.none() | st.floats(0, 99), "seed": st.integers(0)
    }),
})  # fmt: skip


@given(values)
def test_a_config_survives_json(values):
    config = Config(
        data=DataConfig(**values["data"]), model=ModelConfig(**values["model"]),
        diffusion=DiffusionConfig(**values["diffusion"]), train=TrainConfig(**values["train"]),
    )  # fmt: skip
    back = from_dict(Config, json.loads(json.dumps(dataclasses.asdict(config))))
    assert back == config and hash(back) == hash(config)  # lists would not be hashable


def test_fields_left_out_get_defaults_and_unknown_ones_are_refused():
    assert from_dict(Config, {"data": {"size": 64}}) == Config(data=DataConfig(size=64))
    with pytest.raises(ValueError, match=r"unknown fields of DataConfig: \['colour'\]; .*'size'"):
        from_dict(Config, {"data": {"colour": 1}})


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
