"""Does the GIF show what the prompt says? Oracles, prompts, numbers, reports. Lesson 18.

`python -m tinygif.metrics` is the command. A module is imported when one of its names is first
used, since `python -m tinygif.metrics.oracle` is a command too: Python warns if the module that it
runs has been imported by its package.
"""

from importlib import import_module

NAMES = {
    "clip_score": "ClipScore",
    "evaluation": "evaluate sample_clips sweep",
    "oracle": "Reading read_digits",
    "prompts": "COLUMNS Judged draw_clips judge make_captions parse_caption",
    "report": "format_report",
    "shape_reader": "read_shapes",
    "stats": "consistency constancy distances frechet memorisation nearest_digit shares wilson",
}
"""What other code uses, by module."""


def __getattr__(name: str) -> object:
    for module, names in NAMES.items():
        if name in names.split():
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
