"""The wheel and the sdist hold all that sampling needs."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools", "77", reason="older ones cannot read pyproject.toml's licence")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
CARGO = (
    "optdigits.npz", "metrics/oracle.npz", "weights/moving_mnist.safetensors",
    "weights/sprites.safetensors", "weights/two_digits.safetensors",
    "weights/gameboy.safetensors", "weights/README.md", "page/index.html", "page/page.js",
    "py.typed",
)  # fmt: skip
BUILD = "from setuptools import build_meta; build_meta.build_{}({!r})"
USE = """
import sys
sys.path.insert(0, sys.argv[1])
import tinygif
assert tinygif.__file__.startswith(sys.argv[1]), tinygif.__file__
clips = tinygif.load()(["a 7 moving left"], seed=0, steps=2)
tinygif.write_gif("seven.gif", clips[0])
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The files of a wheel and of an sdist, made from a copy of what the project holds."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("tinygif", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).symlink_to(ROOT / name)
    for kind in ("wheel", "sdist"):
        words = [sys.executable, "-c", BUILD.format(kind, str(out))]
        done = subprocess.run(words, cwd=source, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def test_weights_and_digits_are_in_both(built):
    names = zipfile.ZipFile(built[0]).namelist()
    assert [name for name in CARGO if f"tinygif/{name}" not in names] == []
    names = tarfile.open(built[1]).getnames()
    assert [name for name in CARGO if not any(n.endswith(f"/tinygif/{name}") for n in names)] == []


def test_a_gif_is_sampled_from_the_wheel_in_an_empty_folder(built, tmp_path):
    (tmp_path / "empty").mkdir()
    zipfile.ZipFile(built[0]).extractall(tmp_path / "site")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path / "site")], cwd=tmp_path / "empty",
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "weights that come with tinygif" in done.stderr
    assert (tmp_path / "empty" / "seven.gif").stat().st_size > 1000
