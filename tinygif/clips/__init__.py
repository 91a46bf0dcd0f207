"""Your own clips: where they come from, how they are prepared, the data set. Lesson 14."""

from tinygif.clips.dataset import ClipFolder, show_clips, statistics
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
