"""Strict arithmetic, 8 virtual devices, checked shapes, and reproducible hypothesis runs."""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

from pathlib import Path  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

settings.register_profile("tinygif", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("tinygif")

install_import_hook("tinygif", "beartype.beartype")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data, where there is one; tests that need it skip elsewhere."""
    folder = Path(os.environ.get("TINYGIF_TEST_DATA", "../shared/data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    """No test touches the network or the user's cache: digits are the bundled ones."""
    monkeypatch.setattr("tinygif.moving_mnist.MIRRORS", ("http://127.0.0.1:9/",))
    monkeypatch.setenv("TINYGIF_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
