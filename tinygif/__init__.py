"""tinygif: text-to-GIF diffusion, small enough to read."""

from tinygif.errors import TinygifError
from tinygif.gif import read_gif, write_gif
from tinygif.pipeline import Pipeline, load

__version__ = "0.1.0"
__all__ = ["Pipeline", "TinygifError", "load", "read_gif", "write_gif"]
