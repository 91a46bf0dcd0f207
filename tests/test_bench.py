"""The benchmark measures what it says, on the smallest config; no test looks at a time."""

import json
import subprocess
import sys

import equinox as eqx
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import CONFIG

from tinygif import bench
from tinygif.clips import Settings, prepare_clips
from tinygif.errors import TinygifError
from tinygif.gif import write_gif


@pytest.fixture(autouse=True)
def promotion():
    """Optax raises decays to integer powers."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@given(st.floats(-2, 3), st.floats(0.1, 10))
def test_exponent_of_a_power_law(p, a):
    sizes = (8, 16, 32, 64)
    assert np.isclose(bench.exponent(sizes, [a * n**p for n in sizes]), p, atol=1e-9)


def test_in_turn_alternates_and_drops_the_first_round():
    order = []
    times = bench.in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 4
    assert times["a"].shape == times["b"].shape == (3,) and times["a"].min() > 0


def test_product_counts_its_flops():
    call, flops = bench.product("float32", 8)
    assert flops == 2 * 8**3
    assert np.array_equal(call(), np.full((8, 8), 8))


def test_a_program_beside_a_product():
    """Where the program is that very product, its share of the rate is near 1."""
    a = np.ones((256, 256), np.float32)
    program = eqx.filter_jit(lambda x: x @ x).lower(a).compile()
    times = {"matrix": np.array([1.0, 2.0, 4.0]), "program": np.array([2.0, 4.0, 8.0])}
    row = bench.describe(program.compiled, times, 2 * 256.0**3, 3.0)
    assert row["GFLOP"] == 2 * 256**3 / 1e9
    assert row["share of matrix rate"] == {"median": 0.5, "low": 0.5, "high": 0.5}
    assert row["ms"]["median"] == 4000 and row["clips/s"] == 0.75
    assert row["MB that stay"] == 4 * 256**2 / 1e6


def test_every_axis_is_a_field_of_a_config():
    for part, field in bench.AXES:
        assert isinstance(getattr(getattr(CONFIG, part), field), int)


@pytest.mark.slow
def test_everything_of_a_preset(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "PRESETS", {"tiny": CONFIG})
    monkeypatch.setattr(bench, "AXES", {("data", "frames"): (2, 4)})
    monkeypatch.setattr(bench, "import_seconds", lambda: 1.0)
    monkeypatch.setattr("jax.device_count", lambda: 1)
    path = tmp_path / "bench.json"
    bench.main(bench.Options(repeat=1, scaling=True, out=path))
    result = json.loads(path.read_text())
    train, sample = result["training step"], result["sampling step"]
    assert set(result["scaling"]["frames"]["ms"]) == {"2", "4"}
    assert 0 <= train["% waiting for it"] <= 100
    assert sample["GFLOP"] < train["GFLOP"]
    assert train["MB that stay"] > 4 * 3 * train["M weights"]  # weights, average, a moment
    assert str(path) in capsys.readouterr().out


@pytest.mark.slow
def test_clips_of_a_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "PRESETS", {"tiny": CONFIG})
    monkeypatch.setattr(bench, "import_seconds", lambda: 1.0)
    monkeypatch.setattr("jax.device_count", lambda: 1)
    source, path = tmp_path / "cats", tmp_path / "bench.json"
    source.mkdir()
    for name in "ab":
        write_gif(source / f"{name}.gif", np.zeros((4, 8, 8, 3), np.uint8))
        (source / f"{name}.txt").write_text("a cat")
    settings = Settings(CONFIG.data.size, CONFIG.data.frames)
    folder = prepare_clips(source, tmp_path / "made", settings)
    bench.main(bench.Options(repeat=1, dataset=str(folder), out=path))
    result = json.loads(path.read_text())
    assert result["data set"] == "made"
    assert 0 <= result["training step"]["% waiting for it"] <= 100


def test_beside_an_earlier_result():
    now, then = {"a": {"b": 3.0, "c": "x"}, "new": 1.0}, {"a": {"b": 2.0, "c": "x"}}
    first, second, third = bench.format_table(now, then).splitlines()
    assert first.split() == ["a,", "b", "3", "2", "x1.50"]
    assert second.split() == ["a,", "c", "x", "x"]
    assert third.split() == ["new", "1"]


def test_compare_needs_a_file():
    with pytest.raises(TinygifError, match="nowhere.json"):
        bench.main(bench.Options(compare=bench.Path("nowhere.json")))


@pytest.mark.slow
def test_import_is_timed_in_a_new_process():
    assert 0 < bench.import_seconds() < 600


def test_help():
    done = subprocess.run([sys.executable, "-m", "tinygif.bench", "--help"], capture_output=True)
    assert done.returncode == 0 and b"--scaling" in done.stdout
