"""The recipes of lessons/recipes.md, each applied to a copy of the package, do what they say."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "lessons" / "recipes.md").read_text()
RECIPES = {
    title: re.findall(r"^```(diff|python)\n(.*?)^```", part, re.DOTALL | re.MULTILINE)
    for title, _, part in (part.partition("\n") for part in TEXT.split("\n## ")[1:])
}


def copy(folder: Path) -> Path:
    ignore = shutil.ignore_patterns("__pycache__", "weights")
    shutil.copytree(ROOT / "tinygif", folder / "tinygif", ignore=ignore)
    return folder


def run(folder: Path, code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)


def test_there_are_three():
    assert list(RECIPES) == ["Add a schedule", "Add a data set", "Add a block to the U-Net"]


@pytest.mark.parametrize("title", RECIPES)
def test_recipe(title, tmp_path):
    """It is short, its check fails before and passes after."""
    (kind, diff), (language, check) = RECIPES[title]
    assert (kind, language) == ("diff", "python")
    changed = re.findall(r"^[+-](?![+-]{2} )", diff, re.MULTILINE)
    assert 0 < len(changed) <= 20
    folder = copy(tmp_path)
    before = run(folder, check)
    assert before.returncode != 0, "the check passes without the recipe"
    apply = ["git", "apply", "--verbose", "-"]
    done = subprocess.run(apply, cwd=folder, input=diff, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    after = run(folder, check)
    assert after.returncode == 0, after.stderr
