"""Lessons are tests: each lessons/NN_name.md is one pytest item.

Its ```python blocks run in order in one namespace, inside a temporary folder. A block marked
```python quote=tinygif.module.name must equal the source of that object.
"""

import contextlib
import difflib
import inspect
import os
import pkgutil
import re
import tempfile
import textwrap
import traceback
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # workers that share cores wait for each other
FLAG = "--xla_force_host_platform_device_count=8"  # lesson 17 wants 8 devices
if FLAG not in os.environ.get("XLA_FLAGS", ""):  # JAX reads it when it first looks for devices
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAG}"

import jax  # noqa: E402
import pytest  # noqa: E402


def blocks(text: str) -> list[tuple[int, str, str]]:
    """(line number of the fence, what follows the fence, code) of each fenced block."""
    lines = text.split("\n")
    fences = [i for i, line in enumerate(lines) if line.lstrip().startswith("```")]
    if len(fences) % 2:
        raise ValueError(f"expected an even number of ``` fences, got {len(fences)}, the last in "
                         f"line {fences[-1] + 1}: close the block that is left open")
    return [(start + 1, lines[start].strip("` "), "\n".join(lines[start + 1 : end]))
            for start, end in zip(fences[::2], fences[1::2])]


def quote_differs(name: str, code: str) -> str:
    """Empty where `code` is the source of the object called `name`, otherwise a diff."""
    source = textwrap.dedent(inspect.getsource(pkgutil.resolve_name(name)))
    return "\n".join(difflib.unified_diff(code.rstrip().split("\n"), source.rstrip().split("\n"),
                                          "the lesson", name, lineterm=""))


def run_lesson(path: Path) -> dict:
    """Run every python block of a lesson and return the names these leave behind.

    Errors carry the lesson's own line numbers.
    """
    namespace = {"__name__": path.stem}
    with (
        tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder),
        # what tests/conftest.py makes strict is not so for a reader
        jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"),
    ):  # fmt: skip
        for line, info, code in blocks(path.read_text()):
            language, _, mark = info.partition(" ")
            if language != "python":
                continue
            if mark.startswith("quote="):
                if difference := quote_differs(mark.removeprefix("quote="), code):
                    raise ValueError(f"{path.name}:{line}: expected the source, got\n{difference}\n"
                                     "copy the function into the lesson again")
            elif mark:
                raise ValueError(f"{path.name}:{line}: expected ```python alone or with "
                                 f"quote=NAME, got {mark!r}: remove it")
            else:
                exec(compile("\n" * line + code, str(path), "exec"), namespace)
    return namespace


class Lesson(pytest.Item):
    def runtest(self) -> None:
        run_lesson(self.path)

    def teardown(self) -> None:  # the programs that it compiled need not stay in memory
        jax.clear_caches()

    def repr_failure(self, excinfo: pytest.ExceptionInfo) -> str:
        frames = traceback.extract_tb(excinfo.tb)
        inside = [i for i, frame in enumerate(frames) if frame.filename == str(self.path)]
        shown = frames[inside[0] if inside else -1 :]
        where = f"{self.path}:{shown[0].lineno}: " if inside else ""
        return where + excinfo.exconly() + "\n" + "".join(traceback.format_list(shown))

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, self.name


class LessonFile(pytest.File):
    def collect(self) -> list[Lesson]:
        return [Lesson.from_parent(self, name=self.path.stem)]


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> LessonFile | None:
    if re.fullmatch(r"\d\d_\w+\.md", file_path.name):
        return LessonFile.from_parent(parent, path=file_path)
