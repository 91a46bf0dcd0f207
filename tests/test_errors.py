"""errors.py: what a person can mend is a sentence, a mistake in code keeps its traceback.

Lesson 15.
"""

import os
import subprocess
import sys

import jax.numpy as jnp
import pytest

from tinygif.errors import TinygifError, expect, run_command, use_fast_cpu_kernels
from tinygif.gif import GifError


@pytest.fixture(autouse=True)
def flags(monkeypatch):
    """Other tests keep their flags."""
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])


def raise_(error: BaseException):
    raise error


@pytest.mark.parametrize("kind", [TinygifError, GifError])
def test_a_mistake_of_a_person_is_a_sentence_and_exit_code_2(capsys, kind):
    with pytest.raises(SystemExit) as stop:
        run_command("clips", lambda: raise_(kind("expected a folder, got a file")))
    assert stop.value.code == 2
    assert capsys.readouterr().err == "clips: expected a folder, got a file\n"


def test_a_wrong_shape_keeps_its_traceback(capsys):
    """einsum raises ValueError, as TinygifError is one: caught, it would look like a sentence."""
    product = lambda: jnp.einsum("ij,jk->ik", jnp.ones((2, 3)), jnp.ones((4, 5)))  # noqa: E731
    with pytest.raises(ValueError) as error:
        run_command("train.py", product)
    assert not isinstance(error.value, TinygifError) and capsys.readouterr().err == ""


def test_ctrl_c_says_how_to_go_on():
    with pytest.raises(SystemExit) as stop:
        run_command("train.py", lambda: raise_(KeyboardInterrupt()), stopped="go on with --resume")
    assert stop.value.code == "go on with --resume"


@pytest.mark.parametrize("set_by_user", ["", "--xla_cpu_experimental_ynn_fusion_type=all"])
def test_kernels_are_chosen_once_and_the_user_wins(monkeypatch, set_by_user):
    monkeypatch.setenv("XLA_FLAGS", f"--other=1 {set_by_user}".strip())
    for _ in range(2):
        run_command("sample.py", lambda: None)
    wanted = set_by_user or "--xla_cpu_experimental_ynn_fusion_type=reduce"
    assert os.environ["XLA_FLAGS"] == f"--other=1 {wanted}"


def test_unknown_flags_are_left_to_later_versions(monkeypatch):
    monkeypatch.setattr("jax.__version_info__", (0, 13, 0))
    monkeypatch.setenv("XLA_FLAGS", "")
    use_fast_cpu_kernels()
    assert os.environ["XLA_FLAGS"] == ""


IMPORT = """
import os, sys
before = dict(os.environ)
import tinygif
tinygif.load  # imports all that samples
assert dict(os.environ) == before
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
late = ("transformers", "tokenizers", "huggingface_hub", "matplotlib", "tqdm", "tyro",
        "tinygif.training", "tinygif.towers", "tinygif.clips", "tinygif.metrics")
assert "tinygif.pipeline" in sys.modules
assert [name for name in late if name in sys.modules] == []
"""


def test_importing_tinygif_is_quick_and_changes_nothing():
    """Neither the environment nor JAX's choice of devices; heavy modules come when needed."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run([sys.executable, "-c", IMPORT], env=environment, check=True)


def test_of_a_long_value_the_beginning_and_the_advice_at_the_end_are_kept():
    with pytest.raises(TinygifError, match=r"expected x, got a+\.\.\.b+: choose another$") as error:
        expect(False, "x", "a" * 5000 + "b" * 5000 + ": choose another")
    assert len(str(error.value)) < 300
