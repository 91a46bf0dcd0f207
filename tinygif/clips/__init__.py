"""Your own clips: where they come from, how they are prepared, and the data set. Lesson 14."""

from tinygif.clips.prepare import (
    Settings,
    is_prepared,
    prepare_clips,
    read_clip,
    read_report,
    read_rows,
)
from tinygif.clips.sources import collect

__all__ = [
    "ClipFolder", "Settings", "collect", "is_prepared", "prepare_clips", "read_clip",
    "read_report", "read_rows", "show_clips", "statistics",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """Import the data set, and with it JAX, only when needed: workers that decode need neither."""
    if name not in ("ClipFolder", "show_clips", "statistics"):
        raise AttributeError(f"module 'tinygif.clips' has no attribute {name!r}")
    from tinygif.clips import dataset

    return getattr(dataset, name)
