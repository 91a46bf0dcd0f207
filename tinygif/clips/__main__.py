"""Prepare clips for training, or show what was prepared.

    python -m tinygif.clips prepare FOLDER --out data/NAME --size 32 --frames 16
    python -m tinygif.clips prepare tgif-v1.0.tsv --out data/tgif --limit 5000
    python -m tinygif.clips prepare videodatainfo.json --videos FOLDER --out data/msrvtt --fps 8
    python -m tinygif.clips show data/NAME

`prepare` writes clips.npy, captions.jsonl and report.json, which lists the files that were skipped
and why. Lesson 14.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from tinygif.clips.dataset import show_clips, statistics
from tinygif.clips.prepare import Settings, prepare_clips
from tinygif.errors import run_command


@dataclass(frozen=True)
class Prepare:
    """Decode clips once into a folder that train.py --dataset takes."""

    source: tyro.conf.Positional[Path]
    """A folder of clips, TGIF's .tsv, or MSR-VTT's .json."""
    out: Path
    """The folder to make."""
    settings: Settings = Settings()
    workers: int | None = None
    """Processes; by default one for each core that may be used, 16 at most."""
    videos: Path | None = None
    """MSR-VTT: the folder of its MP4 files; by default that of the JSON."""
    split: str | None = None
    """MSR-VTT: train, validate or test; TGIF: a file with one link a line."""
    limit: int | None = None
    """Take only this many clips, the first ones."""


@dataclass(frozen=True)
class Show:
    """Write a captioned grid GIF of prepared clips, and print a line of statistics."""

    folder: tyro.conf.Positional[Path]
    """What `prepare` made."""
    out: Path | None = None
    """The GIF; by default named after the folder."""
    count: int = 36
    """Clips to show."""


def main(command: Prepare | Show) -> None:
    if isinstance(command, Prepare):
        print(f"{command.source} to {command.out}", flush=True)
        out = prepare_clips(**vars(command))  # its arguments have the names of the flags
        print(f"{statistics(out)}\nnow:  python train.py --dataset {out}")
    else:
        print(statistics(command.folder))
        out = command.out or Path(f"{command.folder.resolve().name}.gif")
        show_clips(command.folder, out, command.count)
        print(f"wrote {out}")


if __name__ == "__main__":
    commands = Annotated[Prepare, tyro.conf.OmitArgPrefixes] | Show
    run_command(
        "clips",
        lambda: main(tyro.cli(commands, description=__doc__)),
        stopped="stopped; the same command continues from here",
    )
