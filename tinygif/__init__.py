"""tinygif: text-to-GIF diffusion, small enough to read."""

from tinygif.errors import TinygifError
from tinygif.gif import read_gif, write_gif

__version__ = "0.2.0"
__all__ = ["Pipeline", "TinygifError", "load", "read_gif", "write_gif"]


def __getattr__(name: str) -> object:
    """Import JAX only when it is needed: who reads GIFs in many processes has no use for it."""
    if name not in ("Pipeline", "load"):
        raise AttributeError(f"module 'tinygif' has no attribute {name!r}")
    from tinygif import pipeline

    return getattr(pipeline, name)
