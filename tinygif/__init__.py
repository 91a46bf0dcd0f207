"""tinygif: text-to-GIF diffusion, small enough to read."""

import os

import jax

if jax.__version_info__ < (0, 13):  # later versions may not know the flag, and would abort
    # Products and convolutions on CPUs by Eigen: YNNPACK's make a training step a fifth slower.
    # Read when JAX starts; flags that are set already follow, and win.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"--xla_cpu_experimental_ynn_fusion_type=reduce {flags}"

from tinygif.gif import read_gif, write_gif  # noqa: E402
from tinygif.pipeline import Pipeline, load  # noqa: E402

__version__ = "0.1.0"
__all__ = ["Pipeline", "load", "read_gif", "write_gif"]
