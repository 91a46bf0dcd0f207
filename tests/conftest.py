"""Strict arithmetic, 8 virtual devices, checked shapes, and reproducible hypothesis runs.

Most of the time of these tests goes into compiling programs that run once or twice: XLA optimizes
less here. Workers share what they compile through a folder on disk; a module's programs are
dropped from memory when its tests are over.
"""

import gc
import os
import shutil
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # workers that share cores wait for each other
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if not IS_WORKER:  # workers inherit it
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="tinygif-compiled-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

from pathlib import Path  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402
from filelock import FileLock  # noqa: E402
from hypothesis import settings  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

FLAGS = {"--xla_force_host_platform_device_count": "8"}
if jax.__version_info__ < (0, 13):  # later versions may not know these, and would abort
    FLAGS |= {
        "--xla_cpu_experimental_ynn_fusion_type": "reduce",  # as the scripts do
        "--xla_backend_optimization_level": "0",
    }
if jax.__version_info__ < (0, 12):
    FLAGS["--xla_cpu_use_fusion_emitters"] = "false"
for flag, value in FLAGS.items():  # read when the first program is compiled
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}={value}".strip()
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

settings.register_profile("tinygif", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("tinygif")

install_import_hook("tinygif", "beartype.beartype")


def pytest_unconfigure(config: pytest.Config) -> None:
    if not IS_WORKER:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data, where there is one; tests that need it skip elsewhere."""
    folder = Path(os.environ.get("TINYGIF_TEST_DATA", "../shared/data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one tiny run of train.py, which all workers share: read it, never write."""
    import tiny

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if IS_WORKER else base) / "trained-run"
    with FileLock(f"{folder}.lock"):
        if not (folder / "loss.png").exists():
            tiny.train(folder)
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    """No test touches the network or the user's cache: digits are the bundled ones."""
    monkeypatch.setattr("tinygif.moving_mnist.MIRRORS", ("http://127.0.0.1:9/",))
    monkeypatch.setenv("TINYGIF_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True, scope="module")
def drop_compiled_programs():
    yield
    jax.clear_caches()
    gc.collect()
