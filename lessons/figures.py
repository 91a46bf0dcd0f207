"""Rebuild the figures of all lessons, or of those that are named.

python -m lessons.figures         # everything into lessons/figures/
python -m lessons.figures 00 02
"""

import sys
from pathlib import Path

from lessons.check import find, load

FOLDER = Path(__file__).parent / "figures"
LIMIT = 300_000  # bytes; figures are read on the repository's page


def draw(number: str, folder: Path = FOLDER) -> list[Path]:
    """Run lessons/figures/`number`_*.py; the files it wrote into `folder`."""
    load(find("figures", number)).draw(folder)
    paths = sorted(p for p in folder.glob(f"{number}_*") if p.suffix in (".gif", ".png"))
    for path in paths:
        if path.stat().st_size > LIMIT:
            raise ValueError(f"expected at most {LIMIT} bytes, got {path.stat().st_size} in "
                             f"{path.name}: fewer frames, fewer colours, or a smaller scale")
    return paths


if __name__ == "__main__":
    known = sorted(p.name[:2] for p in FOLDER.glob("[0-9][0-9]_*.py"))
    for number in sys.argv[1:] or known:
        print(*(f"lessons/figures/{path.name}" for path in draw(number)), sep="\n")
