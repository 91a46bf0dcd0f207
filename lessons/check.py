"""Say whether an exercise is solved.

python -m lessons.check 00        # checks lessons/exercises/00_*.py
"""

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent


def find(folder: str, number: str) -> Path:
    """The one file lessons/`folder`/`number`_*.py."""
    paths = sorted((HERE / folder).glob(f"{number}_*.py"))
    if len(paths) != 1:
        known = ", ".join(sorted(p.name[:2] for p in (HERE / folder).glob("[0-9][0-9]_*.py")))
        raise SystemExit(f"expected the number of a lesson among {known}, got {number!r}")
    return paths[0]


def load(path: Path) -> ModuleType:
    """A module from a file whose name starts with a digit."""
    spec = importlib.util.spec_from_file_location(f"lesson_{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def verdict(number: str, folder: str = "exercises") -> str:
    """'' where the exercise passes lessons/checks/`number`_*.py, otherwise what is wrong."""
    check, path = load(find("checks", number)).check, find(folder, number)
    try:
        check(load(path))
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__)
                 if f.filename == str(path)]
        where = f" (line {lines[-1]} of {path.name})" if lines else ""
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        return f"{kind}{error}{where}"
    return ""


def main(arguments: list[str]) -> int:
    """Print what the check of one exercise says; 0 where it passes, otherwise 1."""
    if len(arguments) != 1:
        raise SystemExit(__doc__)
    problem = verdict(arguments[0])
    print(f"not yet: {problem}" if problem else "pass")
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
