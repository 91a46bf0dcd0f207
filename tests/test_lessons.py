"""The lessons' machinery: blocks run, quotes are compared, stubs fail, the table is true.

What a learner writes into an exercise is the learner's: no test here fails for it.
"""

import ast
import re
import shutil
import statistics
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from lessons import check
from lessons.check import find, load, verdict
from lessons.conftest import blocks, quote_differs, run_lesson
from lessons.figures import FOLDER, LIMIT, draw
from tinygif.gif import read_gif

ROOT = Path(__file__).parent.parent
LESSONS = sorted((ROOT / "lessons").glob("[0-9][0-9]_*.md"))
ROWS = re.findall(r"^\| (\d\d) \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|$",
                  (ROOT / "lessons/README.md").read_text(), re.M)
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


def numbers(folder):
    return sorted(path.name[:2] for path in (ROOT / "lessons" / folder).glob("[0-9][0-9]_*.py"))


# ---- exercises -------------------------------------------------------------------------------

@pytest.mark.parametrize("number", numbers("checks"))
def test_solution_passes(number):
    assert verdict(number, "solutions") == ""


def is_untouched(path, root=ROOT):
    """Whether git knows of no change in a file; False where there is no git to ask."""
    command = ["git", "diff", "--quiet", "HEAD", "--", str(path)]
    try:
        return subprocess.run(command, cwd=root, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", numbers("exercises"))
def test_stub_fails(number):
    path = find("exercises", number)
    if not is_untouched(path):
        pytest.skip(f"{path.name} is yours now: `python -m lessons.check {number}` judges it")
    assert "Hint" in path.read_text()
    assert "NotImplementedError" in verdict(number, "exercises"), "a solved or broken stub"


def test_a_changed_exercise_is_the_learners(tmp_path):
    path = tmp_path / "00_gif.py"
    path.write_text("raise NotImplementedError")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "stub"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    assert is_untouched(path, tmp_path)
    path.write_text("solved = True")
    assert not is_untouched(path, tmp_path)


def test_without_git_nothing_is_claimed(tmp_path, monkeypatch):
    (tmp_path / "00_gif.py").write_text("solved = True")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert not is_untouched("00_gif.py", tmp_path)
    monkeypatch.setenv("PATH", "")
    assert not is_untouched("00_gif.py", tmp_path)


def test_check_command_answers(tmp_path, monkeypatch, capsys):
    for folder, code in (("checks", "def check(exercise):\n    assert exercise.x == 1, 'x is 1'"),
                         ("exercises", "x = 1")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "00_try.py").write_text(code)
    monkeypatch.setattr(check, "HERE", tmp_path)
    assert check.main(["00"]) == 0 and capsys.readouterr().out == "pass\n"
    (tmp_path / "exercises" / "00_try.py").write_text("x = 2")
    assert check.main(["00"]) == 1 and capsys.readouterr().out == "not yet: x is 1\n"
    (tmp_path / "exercises" / "00_try.py").write_text("y = 2\nx = z")
    assert check.main(["00"]) == 1
    assert "name 'z' is not defined (line 2 of 00_try.py)" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="the number of a lesson among 00, got '77'"):
        check.main(["77"])
    with pytest.raises(SystemExit, match="python -m lessons.check 00"):
        check.main([])


def test_exercise_00_tells_common_mistakes():
    class ByIndex:
        def read_evenly(path, frames):
            clip, _ = read_gif(path)
            return clip[[k * len(clip) // frames for k in range(frames)]]
    with pytest.raises(AssertionError, match="stays longest.*expected frames .*got"):
        load(find("checks", "00")).check(ByIndex)


# ---- figures ---------------------------------------------------------------------------------

def kept_figures(number):
    return {path.name for path in FOLDER.glob(f"{number}_*") if path.suffix in (".gif", ".png")}


@pytest.mark.slow
@pytest.mark.parametrize("number", numbers("figures"))
def test_figures_are_rebuilt_by_their_script(number, tmp_path):
    if getattr(load(find("figures", number)), "SLOW", False):
        pytest.skip(f"takes more than 10 seconds: python -m lessons.figures {number}")
    assert {path.name for path in draw(number, tmp_path)} == kept_figures(number)


@pytest.mark.parametrize("number", numbers("figures"))
def test_figures_are_small(number):
    kept = kept_figures(number)
    assert kept and all((FOLDER / name).stat().st_size <= LIMIT for name in kept)


@each_lesson
def test_pictures_are_files_here(path):
    for target in re.findall(r"!\[.*?\]\((.*?)\)", path.read_text()):
        assert (path.parent / target).is_file(), target
        assert find("figures", path.name[:2]), "no script draws it"


# ---- form ------------------------------------------------------------------------------------

@each_lesson
def test_lesson_has_the_form(path):
    text = path.read_text()
    lengths = [code.count("\n") + 1 for _, info, code in blocks(text) if info == "python"]
    assert max(lengths) <= 15 and statistics.median(lengths) <= 8, lengths
    words = len(re.sub(r"```.*?```", "", text, flags=re.S).split())
    assert 600 <= words <= 2500, words
    assert "Break it" in text and f"lessons.check {path.name[:2]}" in text


@each_lesson
def test_lesson_has_exercise_check_and_solution(path):
    for folder in ("exercises", "checks", "solutions"):
        assert find(folder, path.name[:2]).stem == path.stem


def modules(name):
    """The files of a module in the table: one of its own, or all of a package."""
    file, folder = ROOT / f"tinygif/{name}.py", ROOT / f"tinygif/{name}"
    return sorted(folder.glob("*.py")) if folder.is_dir() else [file] if file.is_file() else []


def test_table_tells_the_truth():
    assert [row[0] for row in ROWS] == [f"{number:02}" for number in range(21)]
    linked = set()
    for number, lesson, _, names, test in ROWS:
        if link := re.search(r"\((\d\d_\w+\.md)\)", lesson):
            linked.add(link[1])
            assert link[1].startswith(number) and (ROOT / "lessons" / link[1]).is_file()
            assert all(modules(name) for name in re.findall(r"`(\w+)`", names)), names
            assert (ROOT / "tests" / test.strip("`")).is_file(), test
        else:
            assert lesson.endswith("(to come)"), lesson
    assert linked == {path.name for path in LESSONS}
    listed = {name for row in ROWS for name in re.findall(r"`(\w+)`", row[3])}
    there = {path.stem for path in (ROOT / "tinygif").iterdir()
             if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert there - {"__init__"} <= listed


def test_modules_and_lessons_name_each_other():
    for number, lesson, _, names, test in ROWS:
        if link := re.search(r"\((\d\d_\w+\.md)\)", lesson):
            text = (ROOT / "lessons" / link[1]).read_text()
            assert test.strip("`") in text, link[1]
            for name in re.findall(r"`(\w+)`", names):
                for file in modules(name):
                    doc = ast.get_docstring(ast.parse(file.read_text()))
                    told = re.findall(r"\d\d", "".join(re.findall(r"Lessons? ([\d, and]+)", doc)))
                    assert number in told, f"{file} names lessons {told}, not {number}"
                assert re.search(rf"\b{name}(\.py|`)|tinygif\.{name}\b", text), (link[1], name)


@each_lesson
def test_tests_that_a_lesson_names_exist(path):
    text = path.read_text()
    tests = {file.name: re.findall(r"^def (test_\w+)", file.read_text(), re.M)
             for file in (ROOT / "tests").glob("test_*.py")}
    named = set(re.findall(r"`(test_\w+)`", text))
    assert named <= {name for names in tests.values() for name in names}
    for file, word in re.findall(r"pytest tests/(\w+\.py) -k (\w+)", text):
        assert any(word in name for name in tests[file]), f"nothing in {file} matches {word}"


# ---- the runner ------------------------------------------------------------------------------

def lesson(folder, text):
    path = folder / "00_try.md"
    path.write_text(text)
    return path


def test_blocks_share_a_namespace_in_an_empty_folder(tmp_path):
    path = lesson(tmp_path, "a\n```python\nx = 1\nopen('file', 'w').close()\n```\n"
                  "```bash\nnot python\n```\n```python\nimport os\n"
                  "assert x == 1 and os.listdir() == ['file']\n```\n")
    run_lesson(path)
    assert [p.name for p in tmp_path.iterdir()] == ["00_try.md"]


def test_failures_have_the_lessons_own_line(tmp_path):
    path = lesson(tmp_path, "title\n\n```python\nx = 1\n```\n\n```python\ny = 2\n"
                  "assert x == y\n```")
    with pytest.raises(AssertionError) as caught:
        run_lesson(path)
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.filename, last.lineno, last.line) == (str(path), 9, "assert x == y")


def test_pytest_collects_and_reports_lessons(tmp_path):
    shutil.copy(ROOT / "lessons/conftest.py", tmp_path)
    lesson(tmp_path, "```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    (tmp_path / "notes.md").write_text("```python\n1 / 0\n```")
    run = subprocess.run([sys.executable, "-m", "pytest", "-q", str(tmp_path)],
                         capture_output=True, text=True)
    assert "1 failed" in run.stdout and "00_try.md:6: AssertionError" in run.stdout, run.stdout


@pytest.mark.parametrize("text, message", [
    ("```python\nx = 1\n", "even number of ``` fences, got 1, the last in line 1"),
    ("```python skip\nx = 1\n```", "expected ```python alone"),
    ("```python quote=textwrap.indent\ndef indent():\n```", "00_try.md:1: expected the source"),
])
def test_lessons_that_drift_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        run_lesson(lesson(tmp_path, text))


def test_quotes_are_compared_with_the_source():
    source = (ROOT / "lessons/check.py").read_text()
    code = source[source.index("def load(") : source.index("def verdict(")].rstrip()
    assert quote_differs("lessons.check.load", code) == ""
    assert "-    return module2" in quote_differs("lessons.check.load", code + "2")
